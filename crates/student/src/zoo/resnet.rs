//! Residual networks for CIFAR (He et al., arXiv 1512.03385, section 4.2): 6n + 2 layers, 16, 32
//! and 64 channels, parameter-free shortcuts (option A).

use crate::graph::{Builder, Conv};

/// What branches share: all but the last stage. `blocks` a stage: 3 make ResNet-20, 5 ResNet-32.
pub(super) fn stem(net: &mut Builder, blocks: usize) -> Result<(), String> {
    net.conv("conv1", convolution(16, 1))?;
    net.batch_norm("bn1");
    net.relu();
    stage(net, 1, 16, blocks)?;
    stage(net, 2, 32, blocks)
}

/// The last stage and what follows it.
pub(super) fn rest(net: &mut Builder, blocks: usize, classes: i64) -> Result<(), String> {
    stage(net, 3, 64, blocks)?;
    net.global_average();
    net.flatten();
    net.linear("fc", classes);
    Ok(())
}

fn stage(net: &mut Builder, stage: usize, channels: i64, blocks: usize) -> Result<(), String> {
    for block in 0..blocks {
        let stride = if stage > 1 && block == 0 { 2 } else { 1 };
        let name = format!("layer{stage}.{block}");
        net.residual(stride, |net| basic_block(net, &name, channels, stride))?;
        net.relu();
    }
    Ok(())
}

fn basic_block(net: &mut Builder, name: &str, channels: i64, stride: i64) -> Result<(), String> {
    net.conv(&format!("{name}.conv1"), convolution(channels, stride))?;
    net.batch_norm(&format!("{name}.bn1"));
    net.relu();
    net.conv(&format!("{name}.conv2"), convolution(channels, 1))?;
    net.batch_norm(&format!("{name}.bn2"));
    Ok(())
}

fn convolution(outputs: i64, stride: i64) -> Conv {
    Conv {
        stride,
        bias: false,
        ..Conv::same(outputs, 3)
    }
}
