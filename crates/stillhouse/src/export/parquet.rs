//! Parquet of every query, in order of keys.
//!
//! | column | type | what |
//! |---|---|---|
//! | `key` | 32 bytes | name of the query |
//! | `kind` | text | `seed`, `mix`, `evaluation` or `generated` |
//! | `first`, `second` | u32 | seed (evaluation, generated) images of that job; equal unless a mix |
//! | `lambda` | u32 | weight of `first` in hundredths |
//! | `arm` | text | `active` or `control`: for whom it was asked first |
//! | `state` | text | `committed`, `imported`, `ambiguous`, `renewed`, `spent`, `sent`, `reserved` or `given-back` |
//! | `charges` | u32 | how often it was or may have been billed |
//! | `request` | text or null | the request that asked it |
//! | `cause` | text or null | why it has no label |
//! | `class` | u32 or null | most probable class |
//! | `probabilities` | list of f32, or null | the teacher's answer: one value a class |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use parquet::basic::Compression;
use parquet::data_type::{ByteArray, ByteArrayType, FixedLenByteArray, FixedLenByteArrayType, FloatType, Int32Type};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::record::{Field, Row as Record};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::Type;
use stillhouse_core::{Key, SoftLabel};

use super::{Header, Known, Row, checked, identity, metadata};

const SCHEMA: &str = "message labels {
    required fixed_len_byte_array(32) key;
    required binary kind (STRING);
    required int32 first (INTEGER(32,false));
    required int32 second (INTEGER(32,false));
    required int32 lambda (INTEGER(32,false));
    required binary arm (STRING);
    required binary state (STRING);
    required int32 charges (INTEGER(32,false));
    optional binary request (STRING);
    optional binary cause (STRING);
    optional int32 class (INTEGER(32,false));
    optional group probabilities (LIST) { repeated group list { required float element; } }
}";

/// Rows of a row group: a few megabytes.
const GROUP: usize = 65_536;

/// One column of some rows; `None` is null and only where the schema allows it.
enum Column {
    Key(Vec<Key>),
    Text(Vec<Option<String>>),
    Number(Vec<Option<u32>>),
    Floats(Vec<Option<Vec<f32>>>),
}

pub(super) fn encode(header: &Header, rows: &[Row]) -> anyhow::Result<Vec<u8>> {
    let schema = Arc::new(parse_message_type(SCHEMA)?);
    let metadata = metadata(header)
        .into_iter()
        .map(|(key, value)| KeyValue::new(key, value));
    let properties = WriterProperties::builder()
        .set_compression(Compression::SNAPPY)
        .set_key_value_metadata(Some(metadata.collect()))
        .build();
    let mut writer = SerializedFileWriter::new(Vec::new(), schema.clone(), Arc::new(properties))?;
    for rows in rows.chunks(GROUP) {
        let mut group = writer.next_row_group()?;
        let fields = schema.get_fields().iter().zip(columns(rows));
        for (field, column) in fields {
            let mut open = group.next_column()?.ok_or_else(|| anyhow!("a column is missing"))?;
            column.write(&mut open, field.is_optional())?;
            open.close()?;
        }
        group.close()?;
    }
    Ok(writer.into_inner()?)
}

/// The columns of `rows`, in the order of [`SCHEMA`].
fn columns(rows: &[Row]) -> Vec<Column> {
    let text = |of: &dyn Fn(&Row) -> Option<String>| Column::Text(rows.iter().map(of).collect());
    let number = |of: &dyn Fn(&Row) -> Option<u32>| Column::Number(rows.iter().map(of).collect());
    let class = |row: &Row| row.label.as_ref().and_then(|label| u32::try_from(label.class()).ok());
    let floats = |row: &Row| row.label.as_ref().map(|label| label.probabilities().to_vec());
    vec![
        Column::Key(rows.iter().map(|row| row.key).collect()),
        text(&|row| Some(row.sample.kind_name().to_owned())),
        number(&|row| Some(row.sample.first)),
        number(&|row| Some(row.sample.second)),
        number(&|row| Some(u32::from(row.sample.lambda))),
        text(&|row| Some(row.arm.to_string())),
        text(&|row| Some(row.state.to_owned())),
        number(&|row| Some(row.charges)),
        text(&|row| row.request.clone()),
        text(&|row| row.cause.clone()),
        number(&class),
        Column::Floats(rows.iter().map(floats).collect()),
    ]
}

impl Column {
    fn write(self, to: &mut SerializedColumnWriter<'_>, optional: bool) -> anyhow::Result<()> {
        match self {
            Self::Key(keys) => {
                let keys: Vec<FixedLenByteArray> = keys.iter().map(|key| key.0.to_vec().into()).collect();
                to.typed::<FixedLenByteArrayType>().write_batch(&keys, None, None)?;
            }
            Self::Text(texts) => {
                let levels = optional.then(|| levels(&texts));
                let texts: Vec<ByteArray> = texts.iter().flatten().map(|text| text.as_str().into()).collect();
                to.typed::<ByteArrayType>()
                    .write_batch(&texts, levels.as_deref(), None)?;
            }
            Self::Number(numbers) => {
                let levels = optional.then(|| levels(&numbers));
                let numbers: Vec<i32> = numbers.iter().flatten().map(|number| number.cast_signed()).collect();
                to.typed::<Int32Type>().write_batch(&numbers, levels.as_deref(), None)?;
            }
            Self::Floats(lists) => {
                let (defined, repeated) = list_levels(&lists);
                let floats: Vec<f32> = lists.into_iter().flatten().flatten().collect();
                to.typed::<FloatType>()
                    .write_batch(&floats, Some(&defined), Some(&repeated))?;
            }
        }
        Ok(())
    }
}

/// Definition levels of an optional column: 1 where there is a value.
fn levels<T>(values: &[Option<T>]) -> Vec<i16> {
    values.iter().map(|value| i16::from(value.is_some())).collect()
}

/// Definition and repetition levels of an optional list of required values: 0 is null, 2 a value;
/// 0 begins a list, 1 goes on with it. A label is never empty.
fn list_levels(lists: &[Option<Vec<f32>>]) -> (Vec<i16>, Vec<i16>) {
    let one = |list: &Option<Vec<f32>>| match list {
        None => vec![(0, 0)],
        Some(values) => (0..values.len()).map(|at| (2, i16::from(at > 0))).collect(),
    };
    lists.iter().flat_map(one).unzip()
}

/// Some files that are no Parquet make its reader panic; they are refused like any other.
pub(super) fn decode(bytes: Vec<u8>) -> anyhow::Result<Known> {
    let read = AssertUnwindSafe(|| decode_sound(bytes));
    catch_unwind(read).unwrap_or_else(|_| bail!("expected a Parquet file, found a damaged one"))
}

fn decode_sound(bytes: Vec<u8>) -> anyhow::Result<Known> {
    let reader = SerializedFileReader::new(bytes::Bytes::from(bytes)).context("expected a Parquet file")?;
    let file = reader.metadata().file_metadata();
    let pairs = file.key_value_metadata();
    let lookup = |name: &str| pairs?.iter().find(|pair| pair.key == name)?.value.as_deref();
    let (fingerprint, classes) = identity(lookup)?;
    let schema = file.schema_descr().root_schema();
    let wanted = ["key", "probabilities"];
    let fields = schema
        .get_fields()
        .iter()
        .filter(|field| wanted.contains(&field.name()));
    let fields: Vec<_> = fields.cloned().collect();
    ensure!(
        fields.len() == wanted.len(),
        "expected the columns {wanted:?}, found {}",
        fields.len()
    );
    let projection = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
    let mut labels = Vec::new();
    for (at, record) in reader.get_row_iter(Some(projection))?.enumerate() {
        labels.extend(label(at, &record?, classes)?);
    }
    Ok(Known {
        fingerprint,
        classes,
        labels,
    })
}

fn label(at: usize, record: &Record, classes: u32) -> anyhow::Result<Option<(Key, SoftLabel)>> {
    let field = |name: &str| {
        record
            .get_column_iter()
            .find(|(found, _)| *found == name)
            .map(|(_, field)| field)
    };
    let key = match field("key") {
        Some(Field::Bytes(bytes)) => bytes.data(),
        _ => bail!("row {at}: expected a key of 32 bytes"),
    };
    let list = match field("probabilities") {
        Some(Field::Null) => return Ok(None),
        Some(Field::ListInternal(list)) => list.elements(),
        _ => bail!("row {at}: expected a list of probabilities"),
    };
    let float = |field: &Field| match field {
        Field::Float(value) => Ok(*value),
        _ => bail!("row {at}: expected probabilities of 32 bits"),
    };
    let floats: anyhow::Result<Vec<f32>> = list.iter().map(float).collect();
    checked(at, key, floats?, classes).map(Some)
}
