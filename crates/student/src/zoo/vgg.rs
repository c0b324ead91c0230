//! VGG-16 with batch normalisation for CIFAR: thirteen 3x3 convolutions, five pools, one linear
//! layer.

use crate::graph::{Builder, Conv};

/// Widths of the convolutions of each stage.
const STAGES: [&[i64]; 5] = [&[64, 64], &[128, 128], &[256; 3], &[512; 3], &[512; 3]];

/// What branches share: all but the last stage.
pub(super) fn stem(net: &mut Builder) -> Result<(), String> {
    (0..STAGES.len() - 1).try_for_each(|at| stage(net, at))
}

/// The last stage and what follows it.
pub(super) fn rest(net: &mut Builder, classes: i64) -> Result<(), String> {
    stage(net, STAGES.len() - 1)?;
    net.flatten();
    net.linear("fc", classes);
    Ok(())
}

fn stage(net: &mut Builder, at: usize) -> Result<(), String> {
    let before: usize = STAGES[..at].iter().map(|widths| widths.len()).sum();
    let widths = STAGES[at];
    for (layer, outputs) in (1..).zip(widths) {
        net.conv(&format!("conv{}", before + layer), Conv::same(*outputs, 3))?;
        net.batch_norm(&format!("bn{}", before + layer));
        if layer < widths.len() {
            net.relu();
        }
    }
    net.relu_halve(&format!("pool{}", at + 1))
}
