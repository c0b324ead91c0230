//! `curves.csv`: a row for every round of every student; what was not measured is empty.

use crate::failure::{Failure, Kind};
use crate::report::summary::{RoundSummary, Summary};

const HEAD: [&str; 15] = [
    "arm",
    "round",
    "queries",
    "accuracy_last",
    "accuracy_best",
    "best_epoch",
    "agreement",
    "loss",
    "scan_seconds",
    "rescore_seconds",
    "query_seconds",
    "train_seconds",
    "candidates_per_second",
    "labelled",
    "held",
];

/// The bytes of the file.
///
/// # Errors
/// When it cannot be made.
pub(super) fn encode(summary: &Summary) -> Result<Vec<u8>, Failure> {
    let internal = |error: anyhow::Error| Failure::new(Kind::Internal, error).context("cannot write CSV");
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(HEAD).map_err(|error| internal(error.into()))?;
    for (arm, of) in summary.arms() {
        for round in &of.rounds {
            let mut row = vec![arm.to_string()];
            row.extend(cells(round));
            writer.write_record(&row).map_err(|error| internal(error.into()))?;
        }
    }
    writer.into_inner().map_err(|error| internal(error.into_error().into()))
}

/// Everything but the first column.
fn cells(round: &RoundSummary) -> [String; 14] {
    let (accuracy, times) = (round.accuracy, &round.timings);
    let or_empty = |value: Option<f64>| value.map(|value| value.to_string()).unwrap_or_default();
    [
        round.round.to_string(),
        round.queries_total.to_string(),
        or_empty(accuracy.map(|accuracy| accuracy.last)),
        or_empty(accuracy.map(|accuracy| accuracy.best)),
        or_empty(accuracy.map(|accuracy| accuracy.best_epoch.into())),
        or_empty(round.agreement),
        or_empty(round.loss),
        times.scan_seconds.to_string(),
        times.rescore_seconds.to_string(),
        times.query_seconds.to_string(),
        times.train_seconds.to_string(),
        or_empty(times.candidates_per_second),
        round.labelled.to_string(),
        round.held.to_string(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::example;

    #[test]
    fn every_round_is_a_row_and_what_is_missing_is_empty() {
        let mut summary = example::summary();
        summary.active.rounds[0].accuracy = None;
        let text = String::from_utf8(encode(&summary).unwrap()).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 1 + 5 + 5);
        assert_eq!(
            lines[0],
            "arm,round,queries,accuracy_last,accuracy_best,best_epoch,agreement,loss,scan_seconds,rescore_seconds,\
             query_seconds,train_seconds,candidates_per_second,labelled,held"
        );
        assert_eq!(lines[1], "active,0,2000,,,,0.96,0.21,0,0,4.1,12,,0,0");
        assert_eq!(
            lines[2],
            "active,1,8000,0.9853,0.9866,32,0.986,0.105,86,4,12.2,43,248000,6000,0"
        );
        assert!(lines[6].starts_with("control,0,2000,0.9602,"), "{}", lines[6]);
    }
}
