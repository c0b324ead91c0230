//! Placeholders in the template of a JSON request.

use serde_json::Value;

use super::EACH;
use crate::job::explain::nearest_of;

/// A part of a text with placeholders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Text as it is.
    Text(String),
    /// A placeholder.
    Slot(Slot),
}

/// What a placeholder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// `{{image...}}`: the image, or within `{{each}}` one image after another.
    Image(ImageForm),
    /// `{{images...}}`: a list of all images of the request.
    Images(ImageForm),
    /// `{{model}}`: the model's name.
    Model,
    /// `{{version}}`: its version, empty without one.
    Version,
    /// `{{batch}}`: how many images the request has.
    Batch,
    /// `{{requestId}}`: the name of the request.
    RequestId,
    /// `{{classes}}`: the class names, a list, or within text separated by commas.
    Classes,
}

/// How an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageForm {
    /// `.png.base64`: a PNG file in base64.
    PngBase64,
    /// `.png.dataUrl`: the same as a `data:` address.
    PngDataUrl,
    /// `.raw.base64`: the `u8` pixels, channel-major, in base64.
    RawBase64,
    /// `.pixels`, `.pixels.hwc`, `.pixels.flat`: numbers of 0 to 255.
    Pixels(Axes),
    /// `.unit`, `.unit.hwc`, `.unit.flat`: numbers of 0 to 1.
    Unit(Axes),
}

/// How the numbers of an image are nested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Axes {
    /// `[channels][height][width]`.
    Chw,
    /// `[height][width][channels]`.
    Hwc,
    /// `[channels * height * width]`.
    Flat,
}

impl ImageForm {
    const ALL: [(&'static str, Self); 10] = [
        ("", Self::Pixels(Axes::Chw)),
        (".png.base64", Self::PngBase64),
        (".png.dataUrl", Self::PngDataUrl),
        (".raw.base64", Self::RawBase64),
        (".pixels", Self::Pixels(Axes::Chw)),
        (".pixels.hwc", Self::Pixels(Axes::Hwc)),
        (".pixels.flat", Self::Pixels(Axes::Flat)),
        (".unit", Self::Unit(Axes::Chw)),
        (".unit.hwc", Self::Unit(Axes::Hwc)),
        (".unit.flat", Self::Unit(Axes::Flat)),
    ];

    /// Whether it is one text, which may stand within other text.
    #[must_use]
    pub fn is_text(self) -> bool {
        matches!(self, Self::PngBase64 | Self::PngDataUrl | Self::RawBase64)
    }
}

impl Slot {
    /// Every placeholder with its name.
    fn all() -> impl Iterator<Item = (String, Self)> {
        let images = ImageForm::ALL.into_iter().flat_map(|(suffix, form)| {
            [
                (format!("image{suffix}"), Self::Image(form)),
                (format!("images{suffix}"), Self::Images(form)),
            ]
        });
        let others = [
            ("model", Self::Model),
            ("version", Self::Version),
            ("batch", Self::Batch),
            ("requestId", Self::RequestId),
            ("classes", Self::Classes),
        ];
        images.chain(others.map(|(name, slot)| (name.to_owned(), slot)))
    }

    fn of_name(name: &str) -> Option<Self> {
        Self::all().find_map(|(known, slot)| (known == name).then_some(slot))
    }

    /// Whether it may stand within other text.
    #[must_use]
    pub fn is_text(self) -> bool {
        match self {
            Self::Image(form) => form.is_text(),
            Self::Images(_) => false,
            Self::Model | Self::Version | Self::Batch | Self::RequestId | Self::Classes => true,
        }
    }
}

/// A placeholder that stands for nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown placeholder {{{{{name}}}}}")]
pub struct UnknownSlot {
    /// What was written.
    pub name: String,
    /// The known one nearest to it.
    pub nearest: Option<String>,
}

/// The pieces of `text`, in order. Braces that hold no placeholder in pairs are text.
///
/// # Errors
/// The first placeholder that is not known.
pub fn parse_template(text: &str) -> Result<Vec<Piece>, UnknownSlot> {
    let mut pieces = vec![];
    let mut rest = text;
    while let Some((before, (name, after))) = rest
        .split_once("{{")
        .and_then(|(before, inner)| Some((before, inner.split_once("}}")?)))
    {
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let slot = Slot::of_name(name.trim()).ok_or_else(|| unknown(name.trim()))?;
        pieces.push(Piece::Slot(slot));
        rest = after;
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

fn unknown(name: &str) -> UnknownSlot {
    let known: Vec<String> = Slot::all().map(|(name, _)| name).collect();
    UnknownSlot {
        name: name.to_owned(),
        nearest: nearest_of(name, known.iter().map(String::as_str)).map(str::to_owned),
    }
}

/// What a template has room for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Room {
    /// A placeholder for one image outside of `{{each}}`.
    pub(super) one: bool,
    /// A placeholder for a list of images, or `{{each}}`.
    pub(super) many: bool,
}

/// Whether `template` has no place for a second image.
pub(super) fn is_of_one_image(template: &Value) -> bool {
    survey(template).is_ok_and(|room| room.one || !room.many)
}

/// Checks every placeholder of `template`.
///
/// # Errors
/// What is wrong, with a suggestion where there is one.
pub(super) fn survey(template: &Value) -> Result<Room, (String, Option<String>)> {
    let mut room = Room::default();
    visit(template, false, &mut room)?;
    Ok(room)
}

fn visit(value: &Value, within_each: bool, room: &mut Room) -> Result<(), (String, Option<String>)> {
    match value {
        Value::String(text) => visit_text(text, within_each, room),
        Value::Array(values) => values.iter().try_for_each(|value| visit(value, within_each, room)),
        Value::Object(fields) => {
            if let Some(each) = fields.get(EACH) {
                if fields.len() > 1 || within_each {
                    return Err((
                        format!("{EACH} must be the only key of its object, and not within another"),
                        None,
                    ));
                }
                room.many = true;
                return visit(each, true, room);
            }
            fields.values().try_for_each(|value| visit(value, within_each, room))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => Ok(()),
    }
}

fn visit_text(text: &str, within_each: bool, room: &mut Room) -> Result<(), (String, Option<String>)> {
    let pieces = parse_template(text).map_err(|unknown| (unknown.to_string(), unknown.nearest))?;
    for piece in &pieces {
        let Piece::Slot(slot) = piece else { continue };
        if pieces.len() > 1 && !slot.is_text() {
            return Err((format!("a list cannot stand within other text, as in {text:?}"), None));
        }
        match slot {
            Slot::Image(_) => room.one |= !within_each,
            Slot::Images(_) => room.many = true,
            Slot::Model | Slot::Version | Slot::Batch | Slot::RequestId | Slot::Classes => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn placeholders_stand_between_text() {
        let pieces = parse_template("data:image/png;base64,{{ image.png.base64 }}!").expect("known");
        let text = |text: &str| Piece::Text(text.into());
        let slot = Piece::Slot(Slot::Image(ImageForm::PngBase64));
        assert_eq!(pieces, [text("data:image/png;base64,"), slot, text("!")]);
        assert_eq!(parse_template(""), Ok(vec![text("")]));
        assert_eq!(parse_template("a {b} {{"), Ok(vec![text("a {b} {{")]));
        let error = parse_template("{{image.pgn.base64}}").expect_err("unknown");
        assert_eq!(error.to_string(), "unknown placeholder {{image.pgn.base64}}");
        assert_eq!(error.nearest.as_deref(), Some("image.png.base64"));
    }

    #[test]
    fn a_template_has_room_for_one_image_or_for_many() {
        let room = |template: &Value| survey(template).expect("sound");
        assert_eq!(room(&json!({"x": ["{{image}}"]})), Room { one: true, many: false });
        assert_eq!(
            room(&json!({"x": "{{images.unit.hwc}}"})),
            Room { one: false, many: true }
        );
        let each = json!({"instances": {"{{each}}": {"b64": "{{image.png.base64}}"}}});
        assert_eq!(room(&each), Room { one: false, many: true });
        for bad in [
            json!("pixels: {{image.pixels}}"),
            json!({"{{each}}": 1, "x": 2}),
            json!({"{{each}}": {"{{each}}": 1}}),
        ] {
            assert!(survey(&bad).is_err(), "{bad}");
        }
    }
}
