//! What a model of the Open Inference Protocol declares, checked against the job.

use stillhouse_core::ImageShape;
use stillhouse_core::job::{Response, TeacherSpec};

use super::error::mismatch;
use super::reading::{Form, Reading};
use super::{ConnectError, MAX_CLASSES, fingerprint, response_name, said_classes};
use crate::teacher::TeacherInfo;
use crate::tensor::{Datatype, InputTensor, Layout};
use crate::wire::{ModelMetadata, TensorMetadata, output_name};

/// Name of Triton's extension that answers with the most probable classes.
const CLASSIFICATION: &str = "classification";

/// How to ask a model and how to read it.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) info: TeacherInfo,
    pub(super) input: InputTensor,
    pub(super) reading: Reading,
}

/// The plan for the teacher of `spec`, whose server has `extensions` and takes `max_batch` images.
pub(super) fn plan(
    spec: &TeacherSpec,
    shape: ImageShape,
    classes: Option<u32>,
    metadata: &ModelMetadata,
    extensions: &[String],
    max_batch: Option<u32>,
) -> Result<Plan, ConnectError> {
    let version = version(spec, metadata)?;
    let input = input(&metadata.inputs, shape)?;
    let (form, declared) = form(spec.response, &metadata.outputs, extensions)?;
    let classes = agree(declared, said_classes(spec, classes), spec.response)?;
    let info = TeacherInfo {
        classes,
        fingerprint: fingerprint(
            spec,
            &[
                // One model answers alike under both protocols, however its tensors travel.
                "open-inference",
                &spec.model,
                version.as_deref().unwrap_or_default(),
                &response_name(spec.response),
                input.datatype.name(),
                input.layout.name(),
            ],
        ),
        version,
        max_batch,
    };
    let reading = Reading::new(form, info.version.clone(), classes, &spec.class_names);
    reading.check_size(spec.batch_size())?;
    Ok(Plan { info, input, reading })
}

/// The version that answers: the job's, or the only one there is. With several, the server would
/// choose, and could choose another one tomorrow.
fn version(spec: &TeacherSpec, metadata: &ModelMetadata) -> Result<Option<String>, ConnectError> {
    let versions = metadata.versions.as_deref().unwrap_or_default();
    let other = |expected: &str| mismatch("the model's versions", expected, versions.join(", "));
    match (&spec.version, versions) {
        (Some(wanted), []) => Ok(Some(wanted.clone())),
        (Some(wanted), _) if versions.contains(wanted) => Ok(Some(wanted.clone())),
        (Some(wanted), _) => Err(other(wanted)),
        (None, []) => Ok(None),
        (None, [only]) => Ok(Some(only.clone())),
        (None, _) => Err(other("one, or one named in spec.teacher.version")),
    }
}

fn input(inputs: &[TensorMetadata], shape: ImageShape) -> Result<InputTensor, ConnectError> {
    let [tensor] = inputs else {
        return Err(mismatch("the model's inputs", "exactly one tensor", inputs.len()));
    };
    let datatype = Datatype::from_name(&tensor.datatype)
        .ok_or_else(|| mismatch("the datatype of the model's input", "UINT8 or FP32", &tensor.datatype))?;
    let layout = Layout::matching(&tensor.shape, shape).ok_or_else(|| {
        let expected = format!(
            "batches of {shape} images, such as [-1, {}, {}, {}]",
            shape.channels, shape.height, shape.width
        );
        mismatch(
            "the shape of the model's input",
            expected,
            format!("{:?}", tensor.shape),
        )
    })?;
    Ok(InputTensor {
        name: tensor.name.clone(),
        datatype,
        layout,
        shape: tensor.shape.clone(),
    })
}

/// How the declared outputs answer with `response`, and how many classes they declare.
fn form(
    response: Response,
    outputs: &[TensorMetadata],
    extensions: &[String],
) -> Result<(Form, Option<usize>), ConnectError> {
    match (response, outputs) {
        (Response::Probabilities | Response::Logits, [output]) => {
            check_name(response, output)?;
            let form = Form::Values {
                output: output.name.clone(),
                logits: response == Response::Logits,
            };
            Ok((form, class_columns(output)?))
        }
        (Response::TopK(k), [first, second]) => Ok((pair(k, first, second)?, None)),
        (Response::TopK(k), [output]) if extensions.iter().any(|name| name == CLASSIFICATION) => {
            check_name(Response::Probabilities, output)?;
            let output_name = output.name.clone();
            let columns = class_columns(output)?;
            Ok((Form::Classification { output: output_name, k }, columns))
        }
        (Response::TopK(_), [_]) => Err(mismatch(
            "the server's extensions",
            "classification, or a model with two outputs, classes and scores (spec.teacher.response topK)",
            extensions.join(", "),
        )),
        (Response::Label, [output]) if is_class(output) => {
            check_columns(output, &[1])?;
            Ok((
                Form::Class {
                    output: output.name.clone(),
                },
                None,
            ))
        }
        (Response::Label, [output]) => {
            let columns = class_columns(output)?;
            Ok((
                Form::Largest {
                    output: output.name.clone(),
                },
                columns,
            ))
        }
        _ => Err(mismatch("the model's outputs", "exactly one tensor", outputs.len())),
    }
}

/// Our own servers say by the name of their output what its values are.
fn check_name(response: Response, output: &TensorMetadata) -> Result<(), ConnectError> {
    let others = [Response::Probabilities, Response::Logits].map(output_name);
    let own = output_name(response);
    if output.name != own && others.contains(&&*output.name) {
        let expected = format!("{own} (spec.teacher.response)");
        return Err(mismatch("the model's output", expected, &output.name));
    }
    Ok(())
}

/// Whether an output holds numbers or names of classes.
fn is_class(output: &TensorMetadata) -> bool {
    output.datatype.starts_with("INT") || output.datatype.starts_with("UINT") || output.datatype == "BYTES"
}

/// The number of classes, where the output `[-1, classes]` says it.
fn class_columns(output: &TensorMetadata) -> Result<Option<usize>, ConnectError> {
    let most = MAX_CLASSES as i64;
    match output.shape[..] {
        [-1, -1] => Ok(None),
        [-1, classes] if (2..=most).contains(&classes) => Ok(Some(classes as usize)),
        _ => Err(mismatch(
            "the shape of the model's output",
            format!("[-1, classes] with 2 to {most} classes"),
            format!("{:?}", output.shape),
        )),
    }
}

fn check_columns(output: &TensorMetadata, columns: &[i64]) -> Result<(), ConnectError> {
    match output.shape[..] {
        [-1] if columns.contains(&1) => Ok(()),
        [-1, found] if found == -1 || columns.contains(&found) => Ok(()),
        _ => Err(mismatch(
            "the shape of the model's output",
            format!("[-1, {}]", columns[0]),
            format!("{:?}", output.shape),
        )),
    }
}

/// Two outputs `[-1, k]`: one of classes, one of scores.
fn pair(k: u32, first: &TensorMetadata, second: &TensorMetadata) -> Result<Form, ConnectError> {
    let (classes, scores) = match (is_class(first), is_class(second)) {
        (true, false) => (first, second),
        (false, true) => (second, first),
        _ => {
            let found = format!("{} and {}", first.datatype, second.datatype);
            let expected = "one of integers or BYTES (classes) and one of floats (scores)";
            return Err(mismatch("the model's outputs", expected, found));
        }
    };
    for output in [classes, scores] {
        check_columns(output, &[i64::from(k)])?;
    }
    Ok(Form::Pair {
        classes: classes.name.clone(),
        scores: scores.name.clone(),
        k,
    })
}

/// The number of classes, from what the model declares and what the job says.
fn agree(declared: Option<usize>, said: Option<usize>, response: Response) -> Result<Option<usize>, ConnectError> {
    match (declared, said, response) {
        (Some(declared), Some(said), _) if declared != said => Err(mismatch(
            "the classes of the model",
            format!("the {said} of spec.teacher.classNames or spec.student.classes"),
            declared,
        )),
        (None, None, Response::TopK(_) | Response::Label) => Err(mismatch(
            "the number of classes",
            format!("spec.teacher.classNames or spec.student.classes, since the model answers with {response}"),
            "neither",
        )),
        _ => Ok(declared.or(said)),
    }
}
