//! The two networks of a conditional VAE, as the released code of FS-BBT has them: fully connected, and convolutional for
//! colour images of 32x32.

use stillhouse_core::ImageShape;
use tch::Tensor;

use super::layers::{Doubling, Halving, Linear, Parameters, Slots};
use crate::error::StudentError;

/// Where the codes of some images lie, each `[n, latent]`.
pub(super) struct Codes {
    pub(super) mean: Tensor,
    pub(super) log_variance: Tensor,
}

/// Encoder and decoder.
#[derive(Debug)]
pub(super) struct Vae {
    encoder: Encoder,
    heads: [Linear; 2],
    decoder: Decoder,
}

#[derive(Debug)]
enum Encoder {
    /// Pixels and condition, side by side.
    Connected([Linear; 3]),
    /// The condition as one more channel.
    Convolutional {
        plane: Linear,
        /// Rows and columns of the images.
        sides: [i64; 2],
        convolutions: Vec<Halving>,
        hidden: [Linear; 2],
    },
}

#[derive(Debug)]
enum Decoder {
    Connected {
        hidden: [Linear; 3],
        last: Linear,
    },
    Convolutional {
        hidden: [Linear; 2],
        start: Linear,
        convolutions: Vec<Doubling>,
        last: Linear,
    },
}

/// Widths of the fully connected layers, from the pixels on.
const WIDTHS: [i64; 3] = [256, 128, 64];
/// Channels of the convolutions, from the pixels on.
const CHANNELS: [i64; 5] = [32, 64, 128, 256, 512];
/// Widths between convolutions and code.
const NARROW: [i64; 2] = [32, 16];
/// Side of the images for which the convolutional networks are made: five halvings leave one pixel.
const SIDE: u32 = 32;

/// Whether images of this shape get the convolutional networks.
#[must_use]
pub fn is_convolutional(shape: ImageShape) -> bool {
    let colour = ImageShape {
        channels: 3,
        height: SIDE,
        width: SIDE,
    };
    shape == colour
}

impl Vae {
    /// The networks for images of `shape`, and what weights they need.
    pub(super) fn plan(shape: ImageShape, classes: usize, latent: usize) -> (Self, Slots) {
        let (classes, latent) = (classes as i64, latent as i64);
        let mut slots = Slots::default();
        let net = &mut slots;
        let vae = if is_convolutional(shape) {
            let encoder = Encoder::convolutional(net, shape, classes);
            let heads = [0; 2].map(|_| Linear::new(net, NARROW[1], latent));
            let decoder = Decoder::convolutional(net, shape, latent + classes);
            Self {
                encoder,
                heads,
                decoder,
            }
        } else {
            let [wide, middle, narrow] = WIDTHS;
            let pixels = shape.len() as i64;
            let encoder = Encoder::Connected([
                Linear::new(net, pixels + classes, wide),
                Linear::new(net, wide, middle),
                Linear::new(net, middle, narrow),
            ]);
            let heads = [0; 2].map(|_| Linear::new(net, narrow, latent));
            let hidden = [
                Linear::new(net, latent + classes, narrow),
                Linear::new(net, narrow, middle),
                Linear::new(net, middle, wide),
            ];
            let last = Linear::new(net, wide, pixels);
            let decoder = Decoder::Connected { hidden, last };
            Self {
                encoder,
                heads,
                decoder,
            }
        };
        (vae, slots)
    }

    /// Codes of `images` `[n, c, h, w]` under `conditions` `[n, classes]`.
    pub(super) fn encode(
        &self,
        parameters: &Parameters,
        images: &Tensor,
        conditions: &Tensor,
    ) -> Result<Codes, StudentError> {
        let features = match &self.encoder {
            Encoder::Connected(layers) => {
                let input = Tensor::f_cat(&[&images.f_flatten(1, -1)?, conditions], 1)?;
                through(layers, parameters, input)?
            }
            Encoder::Convolutional {
                plane,
                sides: [height, width],
                convolutions,
                hidden,
            } => {
                let plane = plane
                    .forward(parameters, conditions)?
                    .f_view([-1, 1, *height, *width])?;
                let mut x = Tensor::f_cat(&[images, &plane], 1)?;
                for convolution in convolutions {
                    x = convolution.relu(parameters, &x)?;
                }
                through(hidden, parameters, x.f_flatten(1, -1)?)?
            }
        };
        let [mean, log_variance] = self.heads;
        Ok(Codes {
            mean: mean.forward(parameters, &features)?,
            log_variance: log_variance.forward(parameters, &features)?,
        })
    }

    /// Logits of the pixels, `[n, c h w]`, of `codes` `[n, latent]` under `conditions` `[n, classes]`.
    pub(super) fn decode(
        &self,
        parameters: &Parameters,
        codes: &Tensor,
        conditions: &Tensor,
    ) -> Result<Tensor, StudentError> {
        let input = Tensor::f_cat(&[codes, conditions], 1)?;
        match &self.decoder {
            Decoder::Connected { hidden, last } => last.forward(parameters, &through(hidden, parameters, input)?),
            Decoder::Convolutional {
                hidden,
                start,
                convolutions,
                last,
            } => {
                let x = start.forward(parameters, &through(hidden, parameters, input)?)?;
                let mut x = x.f_view([-1, CHANNELS[4], 1, 1])?;
                for convolution in convolutions {
                    x = convolution.relu(parameters, &x)?;
                }
                last.forward(parameters, &x.f_flatten(1, -1)?)
            }
        }
    }
}

fn through(layers: &[Linear], parameters: &Parameters, input: Tensor) -> Result<Tensor, StudentError> {
    layers.iter().try_fold(input, |x, layer| layer.relu(parameters, &x))
}

impl Encoder {
    fn convolutional(net: &mut Slots, shape: ImageShape, classes: i64) -> Self {
        let sides = [i64::from(shape.height), i64::from(shape.width)];
        let plane = Linear::new(net, classes, sides[0] * sides[1]);
        let mut inputs = i64::from(shape.channels) + 1;
        let convolutions = CHANNELS.map(|outputs| Halving::new(net, std::mem::replace(&mut inputs, outputs), outputs));
        let [wide, narrow] = NARROW;
        Self::Convolutional {
            plane,
            sides,
            convolutions: convolutions.to_vec(),
            hidden: [Linear::new(net, inputs, wide), Linear::new(net, wide, narrow)],
        }
    }
}

impl Decoder {
    /// Six doublings of one pixel make twice the sides of an image, and a linear layer makes the image of that.
    fn convolutional(net: &mut Slots, shape: ImageShape, inputs: i64) -> Self {
        let [wide, narrow] = NARROW;
        let [.., most] = CHANNELS;
        let hidden = [Linear::new(net, inputs, narrow), Linear::new(net, narrow, wide)];
        let start = Linear::new(net, wide, most);
        let channels = i64::from(shape.channels);
        let mut inputs = most;
        let outputs = CHANNELS.into_iter().rev().chain([channels]);
        let convolutions = outputs.map(|outputs| Doubling::new(net, std::mem::replace(&mut inputs, outputs), outputs));
        let convolutions = convolutions.collect();
        let pixels = shape.len() as i64;
        Self::Convolutional {
            hidden,
            start,
            convolutions,
            last: Linear::new(net, 4 * pixels, pixels),
        }
    }
}
