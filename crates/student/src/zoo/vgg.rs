//! VGG-16 with batch normalisation for CIFAR: thirteen 3x3 convolutions, five pools, one linear
//! layer.

use crate::graph::{Builder, Conv};

pub(super) fn build(net: &mut Builder, classes: i64) -> Result<(), String> {
    let stages: [&[i64]; 5] = [&[64, 64], &[128, 128], &[256; 3], &[512; 3], &[512; 3]];
    let mut at = 0;
    for (stage, widths) in (1..).zip(stages) {
        for (layer, outputs) in (1..).zip(widths) {
            at += 1;
            net.conv(&format!("conv{at}"), Conv::same(*outputs, 3))?;
            net.batch_norm(&format!("bn{at}"));
            if layer < widths.len() {
                net.relu();
            }
        }
        net.relu_halve(&format!("pool{stage}"))?;
    }
    net.flatten();
    net.linear("fc", classes);
    Ok(())
}
