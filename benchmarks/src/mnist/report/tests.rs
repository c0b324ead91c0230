use super::*;
use serde_json::{Value, json};

fn round(number: u32, last: f64, agreement: Option<f64>) -> Value {
    json!({
        "round": number, "queriesTotal": 2_000 + 6_000 * number, "size": 6_000, "digest": "00", "later": "unknown",
        "accuracy": { "last": last, "best": last + 0.001, "bestEpoch": 20 }, "agreement": agreement,
        "timings": { "scanSeconds": 60.0, "rescoreSeconds": 6.0, "querySeconds": 12.0, "trainSeconds": 30.0,
                     "candidatesPerSecond": if number > 0 { json!(250_000.0) } else { Value::Null } },
    })
}

fn summary(state: &str, active: f64, control: f64) -> String {
    json!({
        "version": 1, "state": { "name": state },
        "started": { "unixMs": 1_000 }, "finished": { "unixMs": 601_000 },
        "budget": { "queries": 51_000, "billed": { "real": 2_000, "total": 15_000 }, "ambiguous": 0 },
        "active": { "rounds": [round(0, 0.96, Some(0.97)), round(1, active, Some(0.99))] },
        "control": { "rounds": [round(0, 0.96, Some(0.97)), round(1, control, Some(0.98))] },
    })
    .to_string()
}

fn seed(seed: u64, active: f64, control: f64) -> SeedResult {
    let summary = Summary::parse(&summary("finished", active, control)).unwrap();
    SeedResult::new(seed, &summary, 15_000).unwrap()
}

fn report(seeds: Vec<SeedResult>) -> Report {
    let teacher = Teacher {
        weights: "teacher".into(),
        accuracy: 99.3,
    };
    Report::new(&Setting::PUBLISHED, &teacher, seeds, Machine::this())
}

#[test]
fn rounds_are_compared_within_seeds_and_averaged_over_them() {
    let report = report(vec![
        seed(0, 0.986, 0.981),
        seed(1, 0.988, 0.984),
        seed(2, 0.987, 0.984),
    ]);
    let text = report.markdown();
    // 98.6, 98.8, 98.7: mean 98.7, standard error 0.1 / sqrt(3), t(2) = 4.303.
    assert!(text.contains("| 98.70 ± 0.25 |"), "{text}");
    // 0.5, 0.4, 0.3.
    assert!(text.contains("| +0.40 ± 0.25 |"), "{text}");
    assert!(
        text.contains("above random on average at every round: reached."),
        "{text}"
    );
    assert!(
        text.contains("at least 99.0 on average after the last round: **missed**."),
        "{text}"
    );
    assert!(text.contains("98.70 / 98.30 | 98.60 / 98.27"), "{text}");
    assert!(text.contains("under 20 minutes a seed: reached."), "{text}");
    assert!(
        text.contains("10.0") && text.contains("250,000") && text.contains("15,000"),
        "{text}"
    );
}

#[test]
fn the_round_before_any_choice_is_compared_with_nothing() {
    let report = report(vec![seed(0, 0.98, 0.98)]);
    assert!(report.rounds[0].difference.is_none() && report.rounds[0].control_last.is_none());
    assert!(!report.is_above_random(), "a tie is not above");
}

#[test]
fn a_result_keeps_the_figures_for_programs() {
    let value = serde_json::to_value(report(vec![seed(4, 0.99, 0.98)])).unwrap();
    assert_eq!(value["seeds"][0]["teacherBill"], 15_000);
    assert_eq!(value["seeds"][0]["minutes"], json!([4.0, 0.4, 0.8, 2.0]));
    assert_eq!(value["rounds"][1]["queries"], 8_000);
    assert_eq!(value["rounds"][1]["difference"]["halfWidth"], Value::Null);
}

#[test]
fn a_job_that_did_not_finish_is_no_result() {
    let error = Summary::parse(&summary("running", 0.9, 0.9)).unwrap_err();
    assert_eq!(error.to_string(), "expected a finished job, found one that is running");
    assert!(Summary::parse("{}").is_err());
    let lacking = summary("finished", 0.9, 0.9).replace("\"agreement\":0.99", "\"agreement\":null");
    let error = SeedResult::new(0, &Summary::parse(&lacking).unwrap(), 0).unwrap_err();
    assert_eq!(error.to_string(), "expected round 1 to have an agreement");
}
