//! AlexNet for 32x32 images: the five convolutions and two hidden layers of FS-BBT's released code
//! (`alexnet_model.py`), in its order (ReLU, pool, batch norm; ReLU, dropout, batch norm). Its
//! biases of one in some convolutions are a quirk of Keras' defaults then, and not taken over.

use crate::graph::{Builder, Conv};

/// Dropout of the hidden linear layers.
const DROPOUT: f32 = 0.5;

/// `divisor` divides every width: 1 is the teacher, 2 the half-size student.
pub(super) fn build(net: &mut Builder, divisor: i64, classes: i64) -> Result<(), String> {
    let convolutions = [
        (48, 5, true),
        (128, 5, true),
        (192, 3, false),
        (192, 3, false),
        (128, 3, true),
    ];
    for (at, (outputs, kernel, pool)) in (1..).zip(convolutions) {
        net.conv(&format!("conv{at}"), Conv::same(outputs / divisor, kernel))?;
        net.relu();
        if pool {
            net.max_pool(&format!("pool{at}"), 3, 2)?;
        }
        net.batch_norm(&format!("bn{at}"));
    }
    net.flatten();
    for (at, outputs) in (1..).zip([512, 256]) {
        net.linear(&format!("fc{at}"), outputs / divisor);
        net.relu();
        net.dropout(DROPOUT);
        net.batch_norm(&format!("fc{at}_bn"));
    }
    net.linear("fc3", classes);
    Ok(())
}
