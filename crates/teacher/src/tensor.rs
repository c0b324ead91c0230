//! How images are laid out and encoded for a teacher.

use stillhouse_core::ImageShape;

/// Element types that images are sent in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datatype {
    /// Pixels as they are, 0 to 255.
    Uint8,
    /// Pixels divided by 255, 0 to 1.
    Fp32,
}

impl Datatype {
    /// Its name in the Open Inference Protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Uint8 => "UINT8",
            Self::Fp32 => "FP32",
        }
    }

    /// The type with this protocol name, if images can be sent in it.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Uint8, Self::Fp32].into_iter().find(|d| d.name() == name)
    }
}

/// Order of the dimensions of a batch of images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// `[n, channels, height, width]`.
    Nchw,
    /// `[n, height, width]`, one channel.
    Nhw,
    /// `[n, height, width, channels]`.
    Nhwc,
    /// `[n, channels * height * width]`, channel-major.
    Flat,
}

impl Layout {
    /// In the order in which a declared shape is matched: where free dimensions leave several
    /// layouts open, the first wins.
    const ALL: [Self; 4] = [Self::Nchw, Self::Nhw, Self::Nhwc, Self::Flat];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Nchw => "nchw",
            Self::Nhw => "nhw",
            Self::Nhwc => "nhwc",
            Self::Flat => "flat",
        }
    }

    /// Dimensions of one image of `shape`, without the batch dimension; `None` when the layout
    /// cannot hold its channels.
    #[must_use]
    pub fn dimensions(self, shape: ImageShape) -> Option<Vec<i64>> {
        let [c, h, w] = [shape.channels, shape.height, shape.width].map(i64::from);
        match self {
            Self::Nchw => Some(vec![c, h, w]),
            Self::Nhw => (c == 1).then(|| vec![h, w]),
            Self::Nhwc => Some(vec![h, w, c]),
            Self::Flat => Some(vec![c * h * w]),
        }
    }

    /// The layout of a tensor declared as `declared` (with -1 for a free dimension) that holds
    /// batches of any size of images of `shape`.
    #[must_use]
    pub fn matching(declared: &[i64], shape: ImageShape) -> Option<Self> {
        let (batch, image) = declared.split_first()?;
        let fits = |layout: &Self| {
            let wanted = layout.dimensions(shape);
            wanted.is_some_and(|dims| {
                dims.len() == image.len()
                    && dims
                        .iter()
                        .zip(image)
                        .all(|(want, found)| *found == -1 || want == found)
            })
        };
        Self::ALL.into_iter().find(|layout| *batch == -1 && fits(layout))
    }
}

/// The tensor that carries images to a teacher.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputTensor {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub datatype: Datatype,
    /// Order of its dimensions.
    pub layout: Layout,
    /// Shape as declared, -1 for a free dimension.
    pub shape: Vec<i64>,
}

/// Writes the tensor that carries images, as JSON or raw.
#[derive(Debug)]
pub(crate) struct Encoder {
    /// The start of the tensor's JSON, up to its shape.
    head: String,
    dimensions: Vec<i64>,
    datatype: Datatype,
    layout: Layout,
    shape: ImageShape,
    /// Every pixel value as JSON.
    numbers: Vec<String>,
}

impl Encoder {
    /// `None` when the layout cannot hold images of `shape`.
    pub(crate) fn new(input: &InputTensor, shape: ImageShape) -> Option<Self> {
        let name = serde_json::to_string(&input.name).expect("a string is JSON");
        let number = |pixel: u8| match input.datatype {
            Datatype::Uint8 => pixel.to_string(),
            // The shortest decimal that reads back as the same float.
            Datatype::Fp32 => unit(pixel).to_string(),
        };
        Some(Self {
            head: format!(r#"{{"name":{name},"datatype":"{}","shape":["#, input.datatype.name()),
            dimensions: input.layout.dimensions(shape)?,
            datatype: input.datatype,
            layout: input.layout,
            shape,
            numbers: (0..=255).map(number).collect(),
        })
    }

    /// Shape of a tensor of `n` images.
    pub(crate) fn shape(&self, n: usize) -> Vec<i64> {
        [n as i64].into_iter().chain(self.dimensions.iter().copied()).collect()
    }

    /// Appends the JSON of the tensor of `images`, `[n, channels, height, width]`, with its values.
    pub(crate) fn json(&self, images: &[u8], n: usize, body: &mut Vec<u8>) {
        body.reserve(images.len() * 5 + self.head.len() + 128);
        self.open(n, body);
        body.extend_from_slice(br#","data":["#);
        self.each_pixel(images, |pixel| {
            body.extend_from_slice(self.numbers[usize::from(pixel)].as_bytes());
            body.push(b',');
        });
        // The comma after the last pixel.
        body.pop();
        body.extend_from_slice(b"]}");
    }

    /// Appends the JSON of a tensor of `n` images whose values follow raw.
    pub(crate) fn announce(&self, n: usize, body: &mut Vec<u8>) {
        self.open(n, body);
        let size = n * self.raw_bytes();
        body.extend_from_slice(format!(r#","parameters":{{"binary_data_size":{size}}}}}"#).as_bytes());
    }

    /// Appends the raw values of the tensor of `images`.
    pub(crate) fn raw(&self, images: &[u8], body: &mut Vec<u8>) {
        body.reserve(images.len() / self.shape.len() * self.raw_bytes());
        let in_order = self.layout != Layout::Nhwc || self.shape.channels == 1;
        match self.datatype {
            Datatype::Uint8 if in_order => body.extend_from_slice(images),
            Datatype::Uint8 => self.each_pixel(images, |pixel| body.push(pixel)),
            Datatype::Fp32 => self.each_pixel(images, |pixel| body.extend_from_slice(&unit(pixel).to_le_bytes())),
        }
    }

    /// Bytes of one raw image.
    fn raw_bytes(&self) -> usize {
        let element = match self.datatype {
            Datatype::Uint8 => 1,
            Datatype::Fp32 => size_of::<f32>(),
        };
        self.shape.len() * element
    }

    fn open(&self, n: usize, body: &mut Vec<u8>) {
        let sides: Vec<String> = self.shape(n).iter().map(i64::to_string).collect();
        body.extend_from_slice(format!("{}{}]", self.head, sides.join(",")).as_bytes());
    }

    /// Every pixel in the order of the layout.
    fn each_pixel(&self, images: &[u8], mut push: impl FnMut(u8)) {
        match self.layout {
            Layout::Nchw | Layout::Nhw | Layout::Flat => images.iter().copied().for_each(push),
            Layout::Nhwc => {
                let plane = self.shape.height as usize * self.shape.width as usize;
                for image in images.chunks_exact(self.shape.len()) {
                    for at in 0..plane {
                        image.iter().skip(at).step_by(plane).copied().for_each(&mut push);
                    }
                }
            }
        }
    }
}

/// A pixel as [`Datatype::Fp32`] carries it.
#[must_use]
pub fn unit(pixel: u8) -> f32 {
    f32::from(pixel) / 255.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binary;
    use crate::wire::Tensor;

    const GREY: ImageShape = ImageShape {
        channels: 1,
        height: 28,
        width: 28,
    };
    const COLOUR: ImageShape = ImageShape {
        channels: 3,
        height: 2,
        width: 2,
    };

    #[test]
    fn a_declared_shape_finds_its_layout() {
        let grey = |declared: &[i64]| Layout::matching(declared, GREY);
        assert_eq!(grey(&[-1, 1, 28, 28]), Some(Layout::Nchw));
        assert_eq!(grey(&[-1, 28, 28]), Some(Layout::Nhw));
        assert_eq!(grey(&[-1, 28, 28, 1]), Some(Layout::Nhwc));
        assert_eq!(grey(&[-1, 784]), Some(Layout::Flat));
        assert_eq!(grey(&[-1, -1, -1, -1]), Some(Layout::Nchw));
        assert_eq!(grey(&[-1, -1, -1, 1]), Some(Layout::Nhwc));
        for bad in [
            &[][..],
            &[-1],
            &[64, 1, 28, 28],
            &[-1, 3, 28, 28],
            &[-1, 783],
            &[-1, 1, 1, 28, 28],
        ] {
            assert_eq!(grey(bad), None, "{bad:?}");
        }
        assert_eq!(Layout::matching(&[-1, 2, 2], COLOUR), None);
    }

    /// The tensor as JSON, and as its announcement with raw values, which must say the same.
    fn encoded(datatype: Datatype, layout: Layout, images: &[u8], n: usize) -> (Vec<u64>, Vec<f32>) {
        let input = InputTensor {
            name: "a \"quoted\" name".into(),
            datatype,
            layout,
            shape: vec![],
        };
        let encoder = Encoder::new(&input, COLOUR).expect("fits");
        let (mut json, mut announced, mut raw) = (vec![], vec![], vec![]);
        encoder.json(images, n, &mut json);
        encoder.announce(n, &mut announced);
        encoder.raw(images, &mut raw);
        let tensor: Tensor = serde_json::from_slice(&json).expect("JSON");
        let without: Tensor = serde_json::from_slice(&announced).expect("JSON");
        assert_eq!(tensor.name, "a \"quoted\" name");
        assert_eq!((&tensor.datatype[..], &tensor.shape), (datatype.name(), &without.shape));
        let size = without.parameters.and_then(|parameters| parameters.binary_data_size);
        assert_eq!(size, Some(raw.len() as u64));
        assert_eq!(binary::decode(datatype.name(), &raw), Some(tensor.data.clone()));
        (tensor.shape, tensor.data.numbers().expect("numbers").to_vec())
    }

    #[test]
    fn a_request_reads_back_as_the_images() {
        let images: Vec<u8> = (0..24).collect();
        let (shape, values) = encoded(Datatype::Uint8, Layout::Nchw, &images, 2);
        assert_eq!(shape, [2, 3, 2, 2]);
        assert_eq!(values, images.iter().map(|p| f32::from(*p)).collect::<Vec<_>>());
    }

    #[test]
    fn every_pixel_value_survives_the_decimal_form_of_a_float() {
        let images: Vec<u8> = (0..=255).chain(0..8).collect();
        let (shape, values) = encoded(Datatype::Fp32, Layout::Flat, &images, 22);
        assert_eq!(shape, [22, 12]);
        assert_eq!(values, images.iter().map(|p| unit(*p)).collect::<Vec<_>>());
    }

    #[test]
    fn channels_move_last_where_the_teacher_wants_them_last() {
        let images: Vec<u8> = (0..12).chain(20..32).collect();
        let (shape, values) = encoded(Datatype::Uint8, Layout::Nhwc, &images, 2);
        assert_eq!(shape, [2, 2, 2, 3]);
        let want = [0, 4, 8, 1, 5, 9, 2, 6, 10, 3, 7, 11].map(|p: u8| f32::from(p));
        assert_eq!(values[..12], want);
        assert_eq!(values[12..], want.map(|p| p + 20.0));
    }
}
