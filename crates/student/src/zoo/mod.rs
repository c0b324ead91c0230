//! The networks of the papers.
//!
//! | architecture | source | parameters |
//! |---|---|---|
//! | `lenet5`, `lenet5-half` | FS-BBT (arXiv 2207.12106), released code | 82,826 and 46,380 at 1x28x28, 10 classes |
//! | `alexnet`, `alexnet-half` | FS-BBT, released code | 1,659,178 and 417,434 at 3x32x32, 10 classes |
//! | `resnet20`, `resnet32` | He et al. (arXiv 1512.03385), section 4.2, shortcut A | 269,722 and 464,154 |
//! | `vgg16-bn` | Simonyan and Zisserman (arXiv 1409.1556) as used for CIFAR: one linear layer | 14,728,266 |
//!
//! Convolutions and linear layers start with PyTorch's default values, those of the residual
//! networks with He's; images enter as they are, in 0..=1.

mod alexnet;
mod lenet;
mod resnet;
mod vgg;

use stillhouse_core::ImageShape;
use stillhouse_core::job::Architecture;

use crate::graph::{Builder, Graph};

pub use lenet::{FirstLayer, LenetParts};

/// Builds the graph of `architecture`, or says why images of this shape do not fit it.
pub(crate) fn graph(architecture: Architecture, shape: ImageShape, classes: i64) -> Result<Graph, String> {
    let mut builder = Builder::new(shape);
    stem(&mut builder, architecture)?;
    rest(&mut builder, architecture, classes)?;
    Ok(builder.finish())
}

/// Builds `branches` of `architecture` over shared first layers, as ONE (arXiv 1806.04606) does: the
/// last stage of convolutions and what follows are each branch's own.
pub(crate) fn branched(
    architecture: Architecture,
    shape: ImageShape,
    classes: i64,
    branches: usize,
) -> Result<Graph, String> {
    let mut builder = Builder::new(shape);
    stem(&mut builder, architecture)?;
    builder.branch_off(branches, |net| rest(net, architecture, classes))?;
    Ok(builder.finish())
}

fn stem(net: &mut Builder, architecture: Architecture) -> Result<(), String> {
    match architecture {
        Architecture::Lenet5 => lenet::stem(net, 6),
        Architecture::Lenet5Half => lenet::stem(net, 3),
        Architecture::Alexnet => alexnet::stem(net, 1),
        Architecture::AlexnetHalf => alexnet::stem(net, 2),
        Architecture::Resnet20 => resnet::stem(net, 3),
        Architecture::Resnet32 => resnet::stem(net, 5),
        Architecture::Vgg16Bn => vgg::stem(net),
    }
}

fn rest(net: &mut Builder, architecture: Architecture, classes: i64) -> Result<(), String> {
    match architecture {
        Architecture::Lenet5 => lenet::rest(net, 16, classes),
        Architecture::Lenet5Half => lenet::rest(net, 8, classes),
        Architecture::Alexnet => alexnet::rest(net, 1, classes),
        Architecture::AlexnetHalf => alexnet::rest(net, 2, classes),
        Architecture::Resnet20 => resnet::rest(net, 3, classes),
        Architecture::Resnet32 => resnet::rest(net, 5, classes),
        Architecture::Vgg16Bn => vgg::rest(net, classes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MNIST: ImageShape = ImageShape {
        channels: 1,
        height: 28,
        width: 28,
    };
    const CIFAR: ImageShape = ImageShape {
        channels: 3,
        height: 32,
        width: 32,
    };

    fn parameters(architecture: Architecture, shape: ImageShape) -> usize {
        let graph = graph(architecture, shape, 10).expect("fits");
        graph.parameters.iter().map(|(slot, _)| slot.numel()).sum()
    }

    #[test]
    fn networks_have_the_published_number_of_parameters() {
        for (architecture, shape, want) in [
            (Architecture::Lenet5, MNIST, 82_826),
            (Architecture::Lenet5Half, MNIST, 46_380),
            (Architecture::Alexnet, CIFAR, 1_659_178),
            (Architecture::AlexnetHalf, CIFAR, 417_434),
            (Architecture::Resnet20, CIFAR, 269_722),
            (Architecture::Resnet32, CIFAR, 464_154),
            (Architecture::Vgg16Bn, CIFAR, 14_728_266),
        ] {
            assert_eq!(parameters(architecture, shape), want, "{}", architecture.name());
        }
    }

    #[test]
    fn images_that_are_too_small_are_refused_with_the_layer_that_needs_more() {
        let tiny = ImageShape {
            channels: 3,
            height: 28,
            width: 28,
        };
        let error = graph(Architecture::Vgg16Bn, tiny, 10).expect_err("28 halves to nothing");
        assert_eq!(error, "pool5 needs at least 2x2 pixels and finds 1x1");
        let tiny = ImageShape {
            channels: 1,
            height: 7,
            width: 9,
        };
        let error = graph(Architecture::Lenet5, tiny, 10).expect_err("too small");
        assert_eq!(error, "pool2 needs at least 2x2 pixels and finds 1x2");
    }

    #[test]
    fn lenets_take_images_down_to_eight_pixels() {
        for side in [8, 16] {
            let shape = ImageShape {
                channels: 1,
                height: side,
                width: side,
            };
            assert!(graph(Architecture::Lenet5Half, shape, 10).is_ok(), "{side}");
        }
    }
}
