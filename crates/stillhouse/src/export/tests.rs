use super::*;

const SHAPE: ImageShape = ImageShape {
    channels: 1,
    height: 8,
    width: 8,
};

fn header() -> Header {
    Header {
        job: "digits".into(),
        fingerprint: Fingerprint::of(&["open-inference", "digits"]),
        classes: 3,
        shape: Some(SHAPE),
    }
}

fn row(at: u8, label: Option<[f32; 3]>) -> Row {
    Row {
        key: Key([at; 32]),
        sample: Columns {
            kind: 1,
            first: u32::from(at),
            second: u32::MAX,
            lambda: 34,
        },
        arm: if at.is_multiple_of(2) {
            Arm::Active
        } else {
            Arm::Control
        },
        state: if label.is_some() { "committed" } else { "ambiguous" },
        charges: 1,
        request: label.is_none().then(|| "0".repeat(32)),
        cause: label
            .is_none()
            .then(|| "the connection was cut \u{2014} half-way".into()),
        label: label.map(|label| SoftLabel::from_probabilities(label.into(), 3).expect("a label")),
    }
}

fn rows() -> Vec<Row> {
    vec![
        row(1, Some([0.25, 0.5, 0.25])),
        row(2, None),
        row(3, Some([0.0, 0.0, 1.0])),
        row(4, Some([1.0, 0.0, 0.0])),
        row(5, None),
    ]
}

/// What a file of `rows` holds.
fn written(format: Format, rows: &[Row]) -> Result<Known, Failure> {
    let folder = tempfile::tempdir().expect("temporary directory");
    let name = match format {
        Format::Parquet => "labels.parquet",
        Format::Safetensors => "labels.safetensors",
    };
    let path = folder.path().join(name);
    std::fs::write(&path, encode(format, &header(), rows).expect("encoded")).expect("writable");
    read(&path)
}

#[test]
fn labels_come_back_from_either_format_bit_for_bit() {
    for format in [Format::Parquet, Format::Safetensors] {
        let known = written(format, &rows()).expect("its own file");
        assert_eq!(known.fingerprint, header().fingerprint);
        assert_eq!(known.classes, 3);
        let labelled = rows().into_iter().filter_map(|row| Some((row.key, row.label?)));
        assert_eq!(known.labels, labelled.collect::<Vec<_>>(), "{format:?}");
        assert_eq!(written(format, &[]).expect("an empty file").labels, []);
    }
}

#[test]
fn a_parquet_file_of_many_row_groups_is_one_list() {
    let many: Vec<Row> = (0..150_000_u32)
        .map(|at| {
            let mut row = row(0, Some([0.5, 0.25, 0.25]));
            row.key.0[..4].copy_from_slice(&at.to_be_bytes());
            row
        })
        .collect();
    let known = written(Format::Parquet, &many).expect("its own file");
    assert_eq!(known.labels.len(), many.len());
    assert_eq!(known.labels[149_999].0, many[149_999].key);
}

#[test]
fn a_label_that_is_none_is_refused_with_its_row() {
    let mut bytes = encode(Format::Safetensors, &header(), &rows()).expect("encoded");
    let half = 0.5_f32.to_le_bytes();
    let at = bytes
        .windows(4)
        .position(|window| window == half)
        .expect("the value is there");
    bytes[at..at + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    let error = tensors::decode(&bytes).expect_err("no distribution");
    assert!(
        error.to_string().starts_with("row 0: probability of class 1 is NaN"),
        "{error}"
    );
}

#[test]
fn files_that_are_cut_or_changed_anywhere_are_refused_and_never_panic() {
    for format in [Format::Parquet, Format::Safetensors] {
        let whole = encode(format, &header(), &rows()).expect("encoded");
        let decode = |bytes: &[u8]| match format {
            Format::Parquet => parquet::decode(bytes.to_vec()),
            Format::Safetensors => tensors::decode(bytes),
        };
        for end in 0..whole.len() {
            assert!(decode(&whole[..end]).is_err(), "{format:?} cut at {end}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 0xff;
            // Some bytes do not matter; what comes back is checked all the same.
            if let Ok(known) = decode(&bytes) {
                assert!(known.labels.iter().all(|(_, label)| label.probabilities().len() == 3));
            }
        }
    }
}

#[test]
fn a_file_of_another_format_is_refused_by_name_and_by_content() {
    let folder = tempfile::tempdir().expect("temporary directory");
    let path = folder.path().join("labels.csv");
    let said = read(&path).expect_err("no such format").to_string();
    assert!(said.contains("expected *.parquet or *.safetensors, found"), "{said}");
    let path = folder.path().join("labels.safetensors");
    let empty = safetensors::serialize(Vec::<(&str, safetensors::tensor::TensorView<'_>)>::new(), None);
    std::fs::write(&path, empty.expect("encoded")).expect("writable");
    let said = read(&path).expect_err("no metadata").to_string();
    assert!(
        said.contains("expected metadata `stillhouse.format`, found none"),
        "{said}"
    );
    assert!(said.contains("name a job directory"), "{said}");
}
