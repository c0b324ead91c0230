//! AlexNet for 32x32 images: the five convolutions and two hidden layers of FS-BBT's released code
//! (`alexnet_model.py`), in its order (ReLU, pool, batch norm; ReLU, dropout, batch norm). Its
//! biases of one in some convolutions are a quirk of Keras' defaults then, and not taken over.

use crate::graph::{Builder, Conv};

/// Dropout of the hidden linear layers.
const DROPOUT: f32 = 0.5;

/// Width, kernel, and whether a pool follows, of the convolutions.
const CONVOLUTIONS: [(i64, i64, bool); 5] = [
    (48, 5, true),
    (128, 5, true),
    (192, 3, false),
    (192, 3, false),
    (128, 3, true),
];
/// Convolutions that branches share: those up to the last stage.
const SHARED: usize = 2;

/// What branches share. `divisor` divides every width: 1 is the teacher, 2 the half-size student.
pub(super) fn stem(net: &mut Builder, divisor: i64) -> Result<(), String> {
    convolutions(net, 0..SHARED, divisor)
}

/// The rest, from the third convolution on.
pub(super) fn rest(net: &mut Builder, divisor: i64, classes: i64) -> Result<(), String> {
    convolutions(net, SHARED..CONVOLUTIONS.len(), divisor)?;
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

fn convolutions(net: &mut Builder, which: std::ops::Range<usize>, divisor: i64) -> Result<(), String> {
    for at in which {
        let (outputs, kernel, pool) = CONVOLUTIONS[at];
        let name = at + 1;
        net.conv(&format!("conv{name}"), Conv::same(outputs / divisor, kernel))?;
        net.relu();
        if pool {
            net.max_pool(&format!("pool{name}"), 3, 2)?;
        }
        net.batch_norm(&format!("bn{name}"));
    }
    Ok(())
}
