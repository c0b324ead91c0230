//! The labels in an answer, found by the pointers of the job.

use serde_json::Value;
use stillhouse_core::SoftLabel;
use stillhouse_core::job::{AnswerSpec, Response};
use stillhouse_core::label::LabelError;

use crate::client::MAX_CLASSES;
use crate::client::http::malformed;
use crate::failure::TeacherFailure;
use crate::teacher::Answer;

/// A class that was told, which may not exist, and its probability.
type Told = (Result<usize, LabelError>, f32);

/// Reads answers.
#[derive(Debug)]
pub(super) struct Reader {
    spec: AnswerSpec,
    response: Response,
    classes: Option<usize>,
    names: Vec<String>,
}

impl Reader {
    pub(super) fn new(spec: AnswerSpec, response: Response, classes: Option<usize>, names: &[String]) -> Self {
        Self {
            spec,
            response,
            classes,
            names: names.to_vec(),
        }
    }

    /// The labels of `n` images.
    pub(super) fn labels(&self, answer: &Value, n: usize) -> Result<Answer, TeacherFailure> {
        let Some(images) = &self.spec.images else {
            return Ok(vec![self.label(answer)?]);
        };
        let images = list(answer, images)?;
        if images.len() != n {
            return Err(malformed(format!("{n} images"), images.len()));
        }
        images.iter().map(|image| self.label(image)).collect()
    }

    /// The label in what is said of one image: the outer failure spoils the whole answer, the
    /// inner one its image only.
    fn label(&self, image: &Value) -> Result<Result<SoftLabel, LabelError>, TeacherFailure> {
        match self.response {
            Response::Probabilities => {
                let values = self.values(image)?;
                let classes = self.classes.unwrap_or(values.len());
                Ok(SoftLabel::from_probabilities(values, classes))
            }
            Response::Logits => {
                let values = self.values(image)?;
                Ok(SoftLabel::from_logits(&values, self.classes.unwrap_or(values.len())))
            }
            Response::Label => {
                let class = at(image, self.spec.label.as_deref().unwrap_or_default())?;
                let classes = self.classes.unwrap_or_default();
                Ok(self.class(class).and_then(|class| SoftLabel::one_hot(class, classes)))
            }
            Response::TopK(k) => {
                let top = self.top(image, k as usize)?;
                let classes = self.classes.unwrap_or_default();
                let top: Result<Vec<_>, _> = top.into_iter().map(|(class, score)| Ok((class?, score))).collect();
                Ok(top.and_then(|top| SoftLabel::from_top(&top, classes)))
            }
        }
    }

    /// One number a class, in the order of the classes.
    fn values(&self, image: &Value) -> Result<Vec<f32>, TeacherFailure> {
        let pointer = self.spec.values.as_deref().unwrap_or_default();
        match at(image, pointer)? {
            Value::Array(values) if values.len() <= MAX_CLASSES => values.iter().map(number).collect(),
            Value::Object(named) if !self.names.is_empty() => {
                let value = |name: &String| {
                    let value = named
                        .get(name)
                        .ok_or_else(|| malformed(format!("a number for {name}"), "none"));
                    number(value?)
                };
                if named.len() != self.names.len() {
                    return Err(malformed(format!("{} classes", self.names.len()), named.len()));
                }
                self.names.iter().map(value).collect()
            }
            Value::Object(_) => Err(malformed(
                "a list of numbers",
                "an object, and no spec.teacher.classNames",
            )),
            other => Err(malformed(format!("a list of numbers at {pointer:?}"), kind(other))),
        }
    }

    /// The `k` classes that are told, or all where there are fewer classes.
    fn top(&self, image: &Value, k: usize) -> Result<Vec<Told>, TeacherFailure> {
        let pointer = |pointer: &Option<String>| pointer.clone().unwrap_or_default();
        let (class, score) = (pointer(&self.spec.class), pointer(&self.spec.score));
        let pairs: Vec<(&Value, &Value)> = match &self.spec.items {
            Some(items) => {
                let items = list(image, items)?.iter();
                let pair = |item| Ok((at(item, &class)?, at(item, &score)?));
                items.map(pair).collect::<Result<_, TeacherFailure>>()?
            }
            None => {
                let (classes, scores) = (list(image, &class)?, list(image, &score)?);
                if classes.len() != scores.len() {
                    return Err(malformed(format!("{} scores", classes.len()), scores.len()));
                }
                classes.iter().zip(scores).collect()
            }
        };
        let expected = k.min(self.classes.unwrap_or(k));
        if pairs.len() < expected {
            return Err(malformed(format!("{expected} classes"), pairs.len()));
        }
        let pairs = pairs.into_iter().take(expected);
        pairs
            .map(|(class, score)| Ok((self.class(class), number(score)?)))
            .collect()
    }

    /// A class by its number or name.
    fn class(&self, value: &Value) -> Result<usize, LabelError> {
        let class = match value {
            Value::Number(number) => number.as_u64().and_then(|class| usize::try_from(class).ok()),
            Value::String(name) => self.names.iter().position(|known| known == name),
            _ => None,
        };
        class.ok_or_else(|| LabelError::NoSuchClass {
            found: value.to_string().chars().take(80).collect(),
            classes: self.classes.unwrap_or_default(),
        })
    }
}

fn at<'a>(value: &'a Value, pointer: &str) -> Result<&'a Value, TeacherFailure> {
    value
        .pointer(pointer)
        .ok_or_else(|| malformed(format!("something at {pointer:?}"), "nothing"))
}

fn list<'a>(value: &'a Value, pointer: &str) -> Result<&'a [Value], TeacherFailure> {
    let found = at(value, pointer)?;
    let list = found.as_array().map(Vec::as_slice);
    list.ok_or_else(|| malformed(format!("a list at {pointer:?}"), kind(found)))
}

/// `null` stands for a number that JSON cannot write, and spoils its image only.
fn number(value: &Value) -> Result<f32, TeacherFailure> {
    match value {
        Value::Null => Ok(f32::NAN),
        value => value
            .as_f64()
            .map(|number| number as f32)
            .ok_or_else(|| malformed("a number", kind(value))),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Billing;
    use serde_json::json;

    fn reader(response: Response, answer: Value) -> Reader {
        let spec = serde_json::from_value(answer).unwrap();
        let names = ["cat", "dog", "cow"].map(String::from);
        Reader::new(spec, response, Some(3), &names)
    }

    fn first(reader: &Reader, answer: &Value) -> Vec<f32> {
        let labels = reader.labels(answer, 1).unwrap();
        labels.into_iter().next().unwrap().unwrap().probabilities().to_vec()
    }

    #[test]
    fn values_are_lists_or_named() {
        let reader = reader(
            Response::Probabilities,
            json!({ "images": "/predictions", "values": "/p" }),
        );
        let list = json!({ "predictions": [{ "p": [0.5, 0.25, 0.25] }] });
        assert_eq!(first(&reader, &list), [0.5, 0.25, 0.25]);
        let named = json!({ "predictions": [{ "p": { "cow": 1, "cat": 0, "dog": 0.0 } }] });
        assert_eq!(first(&reader, &named), [0.0, 0.0, 1.0]);
    }

    #[test]
    fn a_label_is_a_number_or_a_name() {
        let reader = reader(Response::Label, json!({ "label": "/0/class" }));
        assert_eq!(first(&reader, &json!([{ "class": "dog" }])), [0.0, 1.0, 0.0]);
        assert_eq!(first(&reader, &json!([{ "class": 2 }])), [0.0, 0.0, 1.0]);
        for bad in [json!("bird"), json!(3), json!(-1), json!(0.5), json!(null)] {
            let labels = reader.labels(&json!([{ "class": bad }]), 1).unwrap();
            assert!(matches!(labels[0], Err(LabelError::NoSuchClass { .. })), "{bad}");
        }
    }

    #[test]
    fn the_most_probable_are_items_or_two_lists() {
        let items = reader(
            Response::TopK(2),
            json!({ "items": "", "class": "/label", "score": "/score" }),
        );
        let answer =
            json!([{ "label": "dog", "score": 0.5 }, { "label": "cat", "score": 0.25 }, { "label": 2, "score": 9 }]);
        assert_eq!(first(&items, &answer), [0.25, 0.5, 0.25]);
        let lists = reader(Response::TopK(1), json!({ "class": "/c", "score": "/s" }));
        assert_eq!(first(&lists, &json!({ "c": [1], "s": [0.5] })), [0.25, 0.5, 0.25]);
        let failure = items.labels(&json!([]), 1).unwrap_err();
        assert_eq!(failure.billing(), Billing::Billed, "{failure}");
    }

    #[test]
    fn an_answer_of_another_shape_was_paid_for() {
        let reader = reader(Response::Logits, json!({ "images": "/x", "values": "" }));
        for (answer, cause) in [
            (json!({}), "something at \"/x\", found nothing"),
            (json!({ "x": 1 }), "a list at \"/x\", found a number"),
            (json!({ "x": [[0, 0, 0]] }), "2 images, found 1"),
            (json!({ "x": [["a", 0, 0], [0, 0, 0]] }), "a number, found a text"),
            (json!({ "x": [{ "cat": 1 }, { "cat": 1 }] }), "3 classes, found 1"),
        ] {
            let failure = reader.labels(&answer, 2).unwrap_err();
            assert!(failure.to_string().contains(cause), "{failure}");
            assert_eq!(failure.billing(), Billing::Billed);
        }
        let labels = reader.labels(&json!({ "x": [[0, 0, null], [0, 0]] }), 2).unwrap();
        assert!(matches!(labels[0], Err(LabelError::NotFinite { class: 2, .. })));
        assert!(matches!(labels[1], Err(LabelError::Classes { expected: 3, found: 2 })));
    }
}
