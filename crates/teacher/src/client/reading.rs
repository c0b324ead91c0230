//! How the outputs of an Open Inference model become labels.

use std::sync::OnceLock;

use stillhouse_core::SoftLabel;
use stillhouse_core::label::LabelError;

use super::error::mismatch;
use super::http::malformed;
use super::{ConnectError, MAX_CLASSES};
use crate::failure::TeacherFailure;
use crate::teacher::Answer;
use crate::wire::{Tensor, Values};

/// Most bytes of an answer that one value takes, white space and brackets included.
const VALUE_BYTES: usize = 64;

/// Most bytes of an answer around its values.
const FRAME_BYTES: usize = 64 * 1024;

/// Most bytes of any answer: 4,096 images of 1,000 classes.
const MAX_ANSWER_BYTES: usize = 4096 * 1000 * VALUE_BYTES;

/// Most bytes of one text of [`Form::Classification`] or of a class name.
const TEXT_BYTES: usize = 512;

/// Which outputs answer, and in what form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// `[n, classes]` of probabilities or logits.
    Values { output: String, logits: bool },
    /// `[n, k]` of `"score:class"` or `"score:class:name"`: Triton's classification extension.
    Classification { output: String, k: u32 },
    /// `[n, k]` of classes and `[n, k]` of scores.
    Pair { classes: String, scores: String, k: u32 },
    /// `[n]` or `[n, 1]` of classes.
    Class { output: String },
    /// `[n, classes]`, of which the largest counts.
    Largest { output: String },
}

/// Reads answers.
#[derive(Debug)]
pub(super) struct Reading {
    form: Form,
    version: Option<String>,
    names: Vec<String>,
    /// The model's own number, or that of its first answer.
    classes: OnceLock<usize>,
}

impl Reading {
    pub(super) fn new(form: Form, version: Option<String>, classes: Option<usize>, names: &[String]) -> Self {
        Self {
            form,
            version,
            names: names.to_vec(),
            classes: classes.map(OnceLock::from).unwrap_or_default(),
        }
    }

    /// The outputs to ask for, and of how many classes where the server shall choose them.
    pub(super) fn wanted(&self) -> Vec<(&str, Option<u32>)> {
        match &self.form {
            Form::Values { output, .. } | Form::Class { output } | Form::Largest { output } => vec![(output, None)],
            Form::Classification { output, k } => vec![(output, Some(*k))],
            Form::Pair { classes, scores, .. } => vec![(classes, None), (scores, None)],
        }
    }

    /// Most bytes of an answer about one image.
    fn image_bytes(&self) -> usize {
        let classes = self.classes.get().copied().unwrap_or(MAX_CLASSES);
        match &self.form {
            Form::Values { .. } | Form::Largest { .. } => classes * VALUE_BYTES,
            Form::Classification { k, .. } | Form::Pair { k, .. } => *k as usize * (TEXT_BYTES + VALUE_BYTES),
            Form::Class { .. } => TEXT_BYTES,
        }
    }

    /// Most bytes of an answer about `n` images.
    pub(super) fn limit(&self, n: usize) -> usize {
        n.saturating_mul(self.image_bytes()).min(MAX_ANSWER_BYTES) + FRAME_BYTES
    }

    /// A batch whose answer would be too long to read is refused while it is free.
    pub(super) fn check_size(&self, batch: u32) -> Result<(), ConnectError> {
        if self.classes.get().is_none() {
            return Ok(());
        }
        let most = MAX_ANSWER_BYTES / self.image_bytes();
        if batch as usize <= most {
            return Ok(());
        }
        let classes = self.classes.get().copied().unwrap_or_default();
        let expected = format!("at most {most} images for {classes} classes");
        Err(mismatch("spec.teacher.batch", expected, batch))
    }

    /// The labels of `n` images in `outputs`, which `version` of the model answered.
    pub(super) fn labels(&self, outputs: &[Tensor], version: Option<&str>, n: usize) -> Result<Answer, TeacherFailure> {
        if let (Some(expected), Some(found)) = (&self.version, version)
            && !found.is_empty()
            && expected != found
        {
            let found: String = found.chars().take(40).collect();
            return Err(malformed(format!("model version {expected}"), found));
        }
        match &self.form {
            Form::Values { output, logits } => {
                let (values, classes) = self.matrix(find(outputs, output)?, n)?;
                let label = |row: &[f32]| match logits {
                    false => SoftLabel::from_probabilities(row.to_vec(), classes),
                    true => SoftLabel::from_logits(row, classes),
                };
                Ok(values.chunks_exact(classes).map(label).collect())
            }
            Form::Largest { output } => {
                let (values, classes) = self.matrix(find(outputs, output)?, n)?;
                // The softmax keeps the order, and refuses what is no number.
                let label = |row: &[f32]| {
                    let largest = SoftLabel::from_logits(row, classes)?.class();
                    SoftLabel::one_hot(largest, classes)
                };
                Ok(values.chunks_exact(classes).map(label).collect())
            }
            Form::Class { output } => {
                let output = find(outputs, output)?;
                check_shape(output, n, &[&[n as u64], &[n as u64, 1]])?;
                let classes = self.classes(&output.data, None)?;
                let label = |class: Result<usize, LabelError>| SoftLabel::one_hot(class?, self.known());
                Ok(classes.into_iter().map(label).collect())
            }
            Form::Classification { output, k } => self.classification(find(outputs, output)?, n, *k),
            Form::Pair { classes, scores, k } => self.pair(find(outputs, classes)?, find(outputs, scores)?, n, *k),
        }
    }

    /// The number of classes, which forms of single classes know from the start.
    fn known(&self) -> usize {
        self.classes.get().copied().unwrap_or_default()
    }

    /// The values of `output`, `[n, classes]`, and the number of classes.
    fn matrix<'a>(&self, output: &'a Tensor, n: usize) -> Result<(&'a [f32], usize), TeacherFailure> {
        let known = self.classes.get().map(|classes| *classes as u64);
        let classes = match output.shape[..] {
            [rows, classes] if rows == n as u64 && known.is_none_or(|known| known == classes) => classes,
            _ => {
                let wanted = known.map_or("classes".to_owned(), |classes| classes.to_string());
                let found = format!("{:?}", output.shape);
                return Err(malformed(format!("shape [{n}, {wanted}]"), found));
            }
        };
        if !(2..=MAX_CLASSES as u64).contains(&classes) {
            return Err(malformed(format!("2 to {MAX_CLASSES} classes"), classes));
        }
        let values = numbers(output, n * classes as usize)?;
        Ok((values, *self.classes.get_or_init(|| classes as usize)))
    }

    fn classification(&self, output: &Tensor, n: usize, k: u32) -> Result<Answer, TeacherFailure> {
        let k = k as usize;
        check_shape(output, n, &[&[n as u64, k as u64]])?;
        let Values::Texts(texts) = &output.data else {
            return Err(malformed("texts of score:class", &output.datatype));
        };
        count(texts.len(), n * k)?;
        let item = |text: &String| {
            let mut parts = text.splitn(3, ':');
            let score = parts.next().and_then(|score| score.parse::<f32>().ok());
            let class = parts.next().and_then(|class| class.parse::<usize>().ok());
            class
                .zip(score)
                .ok_or_else(|| malformed("score:class", format!("{text:.40}")))
        };
        let items: Vec<(usize, f32)> = texts.iter().map(item).collect::<Result<_, _>>()?;
        let label = |top: &[(usize, f32)]| SoftLabel::from_top(top, self.known());
        Ok(items.chunks_exact(k).map(label).collect())
    }

    fn pair(&self, classes: &Tensor, scores: &Tensor, n: usize, k: u32) -> Result<Answer, TeacherFailure> {
        let wanted = [n as u64, u64::from(k)];
        for output in [classes, scores] {
            check_shape(output, n, &[&wanted])?;
        }
        let total = n * k as usize;
        let scores = numbers(scores, total)?;
        let classes = self.classes(&classes.data, Some(total))?;
        let rows = classes.chunks_exact(k as usize).zip(scores.chunks_exact(k as usize));
        let label = |(classes, scores): (&[Result<usize, LabelError>], &[f32])| {
            let classes: Vec<usize> = classes.iter().cloned().collect::<Result<_, _>>()?;
            let top: Vec<(usize, f32)> = classes.into_iter().zip(scores.iter().copied()).collect();
            SoftLabel::from_top(&top, self.known())
        };
        Ok(rows.map(label).collect())
    }

    /// Classes by number, or by name.
    fn classes(
        &self,
        values: &Values,
        expected: Option<usize>,
    ) -> Result<Vec<Result<usize, LabelError>>, TeacherFailure> {
        if let Some(expected) = expected {
            count(values.len(), expected)?;
        }
        let unknown = |found: String| LabelError::NoSuchClass {
            found,
            classes: self.known(),
        };
        Ok(match values {
            Values::Numbers(numbers) => {
                let class = |number: &f32| {
                    let whole = number.fract() == 0.0 && (0.0..self.known() as f32).contains(number);
                    whole
                        .then_some(*number as usize)
                        .ok_or_else(|| unknown(number.to_string()))
                };
                numbers.iter().map(class).collect()
            }
            Values::Texts(texts) => {
                let class = |text: &String| {
                    let known = self.names.iter().position(|name| name == text);
                    known.ok_or_else(|| unknown(format!("{text:.40}")))
                };
                texts.iter().map(class).collect()
            }
        })
    }
}

fn find<'a>(outputs: &'a [Tensor], name: &str) -> Result<&'a Tensor, TeacherFailure> {
    let output = outputs.iter().find(|output| output.name == name);
    output.ok_or_else(|| malformed(format!("output {name}"), "none"))
}

fn check_shape(output: &Tensor, n: usize, allowed: &[&[u64]]) -> Result<(), TeacherFailure> {
    if !allowed.contains(&&output.shape[..]) {
        let expected = format!("shape {:?}", allowed[0]);
        return Err(malformed(expected, format!("{:?}", output.shape)));
    }
    let product = output.shape.iter().product::<u64>();
    count(output.data.len(), product.max(n as u64) as usize)
}

fn numbers(output: &Tensor, expected: usize) -> Result<&[f32], TeacherFailure> {
    let values = output.data.numbers().ok_or_else(|| malformed("numbers", "texts"))?;
    count(values.len(), expected)?;
    Ok(values)
}

fn count(found: usize, expected: usize) -> Result<(), TeacherFailure> {
    if found == expected {
        return Ok(());
    }
    Err(malformed(format!("{expected} values"), found))
}
