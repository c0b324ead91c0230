//! The body of a request: a template with its placeholders filled in.

use serde_json::{Map, Value, json};
use stillhouse_core::ImageShape;
use stillhouse_core::job::{Axes, EACH, ImageForm, Piece, Slot, TeacherSpec, UnknownSlot, parse_template};

use crate::client::picture;
use crate::teacher::Attempt;
use crate::tensor::unit;

/// A template, parsed.
#[derive(Debug)]
pub(super) struct Request {
    root: Node,
    model: String,
    version: String,
    classes: Vec<String>,
    shape: ImageShape,
}

#[derive(Debug)]
enum Node {
    Fixed(Value),
    /// One placeholder, whose value may be a list.
    Slot(Slot),
    /// Text with placeholders.
    Text(Vec<Piece>),
    List(Vec<Node>),
    Object(Vec<(String, Node)>),
    /// One entry an image.
    Each(Box<Node>),
}

impl Request {
    /// # Errors
    /// The first placeholder that is not known.
    pub(super) fn new(template: &Value, spec: &TeacherSpec, shape: ImageShape) -> Result<Self, UnknownSlot> {
        Ok(Self {
            root: parse(template)?,
            model: spec.model.clone(),
            version: spec.version.clone().unwrap_or_default(),
            classes: spec.class_names.clone(),
            shape,
        })
    }

    /// Whether an image travels as a PNG.
    pub(super) fn draws(&self) -> bool {
        self.root.draws()
    }

    /// The body for `n` images.
    pub(super) fn render(&self, images: &[u8], n: usize, attempt: &Attempt) -> Value {
        let filling = Filling {
            request: self,
            images,
            image: &images[..self.shape.len()],
            n,
            attempt,
        };
        filling.node(&self.root)
    }
}

fn parse(template: &Value) -> Result<Node, UnknownSlot> {
    Ok(match template {
        Value::String(text) => {
            let pieces = parse_template(text)?;
            match pieces[..] {
                [Piece::Text(_)] => Node::Fixed(template.clone()),
                [Piece::Slot(slot)] => Node::Slot(slot),
                _ => Node::Text(pieces),
            }
        }
        Value::Array(values) => Node::List(values.iter().map(parse).collect::<Result<_, _>>()?),
        Value::Object(fields) => match fields.get(EACH) {
            Some(each) => Node::Each(Box::new(parse(each)?)),
            None => {
                let field = |(name, value): (&String, &Value)| Ok((name.clone(), parse(value)?));
                Node::Object(fields.iter().map(field).collect::<Result<_, _>>()?)
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) => Node::Fixed(template.clone()),
    })
}

impl Node {
    fn draws(&self) -> bool {
        let draws = |slot: &Slot| {
            let (Slot::Image(form) | Slot::Images(form)) = slot else {
                return false;
            };
            matches!(form, ImageForm::PngBase64 | ImageForm::PngDataUrl)
        };
        match self {
            Self::Fixed(_) => false,
            Self::Slot(slot) => draws(slot),
            Self::Text(pieces) => pieces
                .iter()
                .any(|piece| matches!(piece, Piece::Slot(slot) if draws(slot))),
            Self::List(nodes) => nodes.iter().any(Self::draws),
            Self::Object(fields) => fields.iter().any(|(_, node)| node.draws()),
            Self::Each(node) => node.draws(),
        }
    }
}

/// What placeholders stand for in one request.
#[derive(Clone, Copy)]
struct Filling<'a> {
    request: &'a Request,
    images: &'a [u8],
    /// The image of the moment: the first, or within `{{each}}` one after another.
    image: &'a [u8],
    n: usize,
    attempt: &'a Attempt,
}

impl Filling<'_> {
    fn node(&self, node: &Node) -> Value {
        match node {
            Node::Fixed(value) => value.clone(),
            Node::Slot(slot) => self.slot(*slot),
            Node::Text(pieces) => pieces.iter().map(|piece| self.text(piece)).collect::<String>().into(),
            Node::List(nodes) => nodes.iter().map(|node| self.node(node)).collect(),
            Node::Object(fields) => {
                let fields = fields.iter().map(|(name, node)| (name.clone(), self.node(node)));
                Value::Object(fields.collect::<Map<_, _>>())
            }
            Node::Each(node) => self.each(|filling| filling.node(node)),
        }
    }

    fn each(&self, entry: impl Fn(Self) -> Value) -> Value {
        let images = self.images.chunks_exact(self.request.shape.len());
        images.map(|image| entry(Self { image, ..*self })).collect()
    }

    fn slot(&self, slot: Slot) -> Value {
        match slot {
            Slot::Image(form) => self.picture(form),
            Slot::Images(form) => self.each(|filling| filling.picture(form)),
            Slot::Model => self.request.model.clone().into(),
            Slot::Version => self.request.version.clone().into(),
            Slot::Batch => self.n.into(),
            Slot::RequestId => self.attempt.request_id.clone().into(),
            Slot::Classes => self.request.classes.clone().into(),
        }
    }

    fn text(&self, piece: &Piece) -> String {
        match piece {
            Piece::Text(text) => text.clone(),
            Piece::Slot(Slot::Classes) => self.request.classes.join(", "),
            Piece::Slot(slot) => match self.slot(*slot) {
                Value::String(text) => text,
                other => other.to_string(),
            },
        }
    }

    fn picture(&self, form: ImageForm) -> Value {
        let shape = self.request.shape;
        match form {
            ImageForm::PngBase64 => picture::base64(&picture::png(self.image, shape)).into(),
            ImageForm::PngDataUrl => picture::data_url(self.image, shape).into(),
            ImageForm::RawBase64 => picture::base64(self.image).into(),
            ImageForm::Pixels(axes) => nested(self.image, shape, axes, |pixel| json!(pixel)),
            ImageForm::Unit(axes) => nested(self.image, shape, axes, |pixel| json!(unit(pixel))),
        }
    }
}

/// The numbers of `image`, nested as `axes` say.
fn nested(image: &[u8], shape: ImageShape, axes: Axes, number: impl Fn(u8) -> Value) -> Value {
    let [channels, height, width] = [shape.channels, shape.height, shape.width].map(|side| side as usize);
    let (pixels, [_, rows, columns]) = match axes {
        Axes::Flat => return image.iter().copied().map(number).collect(),
        Axes::Chw => (image.to_vec(), [channels, height, width]),
        Axes::Hwc => (picture::interleaved(image, shape), [height, width, channels]),
    };
    let row = |row: &[u8]| row.iter().copied().map(&number).collect::<Value>();
    let plane = |plane: &[u8]| plane.chunks_exact(columns).map(row).collect::<Value>();
    pixels.chunks_exact(rows * columns).map(plane).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use stillhouse_core::job::Protocol;

    const SHAPE: ImageShape = ImageShape {
        channels: 3,
        height: 1,
        width: 2,
    };

    fn rendered(template: &Value) -> Value {
        let spec = TeacherSpec {
            class_names: vec!["cat".into(), "dog".into()],
            ..TeacherSpec::new(Protocol::Json, "http://a", "m")
        };
        let request = Request::new(template, &spec, SHAPE).expect("known placeholders");
        let images: Vec<u8> = (0..6).chain([0, 51, 102, 153, 204, 255]).collect();
        request.render(&images, 2, &Attempt::new("r1"))
    }

    #[test]
    fn placeholders_are_filled_in() {
        let template = json!({
            "model": "{{model}}", "id": "{{requestId}}", "n": "{{batch}}", "kept": [1, null, true, "x"],
            "classes": "{{classes}}", "text": "{{batch}} of {{classes}}",
            "raw": "{{image.raw.base64}}",
        });
        let want = json!({
            "model": "m", "id": "r1", "n": 2, "kept": [1, null, true, "x"],
            "classes": ["cat", "dog"], "text": "2 of cat, dog",
            "raw": "AAECAwQF",
        });
        assert_eq!(rendered(&template), want);
    }

    #[test]
    fn images_are_written_in_every_form() {
        for (form, want) in [
            ("{{image}}", json!([[[0, 1]], [[2, 3]], [[4, 5]]])),
            ("{{image.pixels.hwc}}", json!([[[0, 2, 4], [1, 3, 5]]])),
            ("{{image.pixels.flat}}", json!([0, 1, 2, 3, 4, 5])),
            ("{{images.raw.base64}}", json!(["AAECAwQF", "ADNmmcz/"])),
        ] {
            assert_eq!(rendered(&json!(form)), want, "{form}");
        }
        let unit = rendered(&json!("{{images.unit.flat}}"));
        assert_eq!(unit[1][1].as_f64(), Some(f64::from(unit_of(51))));
        let url = rendered(&json!("{{image.png.dataUrl}}"));
        let png = rendered(&json!("{{image.png.base64}}"));
        assert_eq!(url, format!("data:image/png;base64,{}", png.as_str().unwrap()));
        let each = rendered(&json!({ "instances": { "{{each}}": { "b64": "{{image.raw.base64}}" } } }));
        assert_eq!(
            each,
            json!({ "instances": [{ "b64": "AAECAwQF" }, { "b64": "ADNmmcz/" }] })
        );
    }

    fn unit_of(pixel: u8) -> f32 {
        unit(pixel)
    }
}
