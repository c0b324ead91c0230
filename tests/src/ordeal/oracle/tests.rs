use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;
use stillhouse_core::plan::Arm;
use stillhouse_core::{Fingerprint, Key, Sample, SoftLabel};
use stillhouse_ledger::{Admission, Genesis, Ledger, Permit, Request, RequestId};
use stillhouse_teacher::Pixels;
use tempfile::TempDir;

use super::*;

const BUDGET: u64 = 5;

/// A job directory with a ledger.
struct Bench {
    folder: TempDir,
    books: Books,
}

impl Bench {
    fn new(on_ambiguous: OnAmbiguous) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let budget = BudgetSpec {
            queries: BUDGET,
            per_round: 1,
            on_ambiguous,
            reuse: Vec::new(),
        };
        let books = Books::new(folder.path().join("job"), folder.path().join("books"), &budget);
        std::fs::create_dir(folder.path().join("job")).unwrap();
        Self { folder, books }
    }

    fn dir(&self) -> PathBuf {
        self.folder.path().join("job")
    }

    /// Sends queries, and commits those of them that come first.
    async fn ask(&self, queries: u32, committed: usize, label: [f32; 3]) {
        let genesis = Genesis {
            job_digest: [1; 32],
            fingerprint: Fingerprint([2; 32]),
            budget: BUDGET,
            classes: 3,
            on_ambiguous: stillhouse_ledger::OnAmbiguous::Hold,
        };
        let ledger = Ledger::create_or_open(&self.dir(), &genesis).unwrap();
        let request = |number| Request {
            key: Key([number as u8; 32]),
            sample: Sample::Seed(number),
            arm: Arm::Active,
        };
        let admitted = ledger.admit((0..queries).map(request).collect()).await.unwrap();
        let permits = admitted.iter().filter_map(|admission| match admission {
            Admission::Permitted(permit) => Some(*permit),
            _ => None,
        });
        let permits: Vec<Permit> = permits.collect();
        ledger.mark_sent(RequestId(7), permits.clone()).await.unwrap();
        let label = SoftLabel::from_probabilities(label.to_vec(), 3).unwrap();
        let labels = permits.iter().take(committed).map(|permit| (*permit, label.clone()));
        ledger.commit(labels.collect()).await.unwrap();
    }

    fn look(&mut self, bill: &[&str]) -> Violations {
        let mut violations = Violations::default();
        let bill: Vec<String> = bill.iter().map(|image| (*image).to_owned()).collect();
        self.books.look(&bill, &mut violations).unwrap();
        violations
    }
}

#[tokio::test]
async fn sound_books_are_sound_before_and_after_a_ledger_is_there() {
    let mut bench = Bench::new(OnAmbiguous::Hold);
    assert!(bench.look(&[]).is_empty());
    bench.ask(3, 2, [1.0, 0.0, 0.0]).await;
    assert!(bench.look(&["a", "b", "c"]).is_empty());
    assert_eq!(bench.books.counts.unwrap().billed(), 3);
    bench.ask(5, 2, [0.0, 1.0, 0.0]).await;
    assert!(bench.look(&["a", "b", "c", "d", "e"]).is_empty());
}

#[tokio::test]
async fn a_bill_beyond_budget_or_ledger_is_found() {
    let mut bench = Bench::new(OnAmbiguous::Hold);
    assert_eq!(bench.look(&["a"]).others.len(), 1, "there is no ledger");
    bench.ask(2, 1, [1.0, 0.0, 0.0]).await;
    assert_eq!(bench.look(&["a", "b", "c"]).others.len(), 1, "one is in no ledger");
    assert_eq!(bench.look(&["a", "b", "c", "d", "e", "f", "g"]).over_budget, 2);
}

#[tokio::test]
async fn what_was_sent_too_often_is_found() {
    for (policy, twice) in [
        (OnAmbiguous::Hold, 2),
        (OnAmbiguous::Resend(1), 1),
        (OnAmbiguous::Resend(2), 0),
    ] {
        let mut bench = Bench::new(policy);
        bench.ask(5, 5, [1.0, 0.0, 0.0]).await;
        assert_eq!(bench.look(&["a", "b", "a", "c", "a"]).sent_twice, twice, "{policy:?}");
    }
}

#[tokio::test]
async fn a_label_that_is_gone_or_another_is_found() {
    for (committed, label) in [(1, [1.0, 0.0, 0.0]), (3, [0.0, 1.0, 0.0])] {
        let mut bench = Bench::new(OnAmbiguous::Hold);
        bench.ask(3, 3, [1.0, 0.0, 0.0]).await;
        assert!(bench.look(&["a", "b", "c"]).is_empty());
        std::fs::remove_dir_all(bench.dir().join("ledger")).unwrap();
        bench.ask(3, committed, label).await;
        let lost = if committed == 1 { 2 } else { 3 };
        assert_eq!(bench.look(&["a", "b", "c"]).labels_lost, lost);
    }
}

/// The teacher's answers for `images` images, and the images.
fn taught(images: usize) -> (Vec<u8>, Vec<f32>) {
    let pixels: Vec<u8> = (0..images * SHAPE.len()).map(|at| (at * at % 251) as u8).collect();
    let answers = predict(SHAPE, CLASSES)(Pixels::Uint8(pixels.clone()), images).unwrap();
    (pixels, answers)
}

/// A finished job that claims so many billed queries and so many in doubt.
fn finished(bench: &Bench, images: &[u8], labels: &[f32], total: u64, ambiguous: u64) -> Outcome {
    let left = BUDGET - total - ambiguous;
    let budget = json!({ "queries": BUDGET, "billed": { "total": total }, "ambiguous": ambiguous, "left": left });
    let write = |name: &str, bytes: &[u8]| std::fs::write(bench.folder.path().join(name), bytes).unwrap();
    write("summary.json", json!({ "budget": budget }).to_string().as_bytes());
    let n = images.len() / SHAPE.len();
    let bytes: Vec<u8> = labels.iter().flat_map(|value| value.to_le_bytes()).collect();
    let images = TensorView::new(Dtype::U8, vec![n, 1, 8, 8], images).unwrap();
    let probabilities = TensorView::new(Dtype::F32, vec![n, CLASSES], &bytes).unwrap();
    let file = serialize([("images", images), ("probabilities", probabilities)], None).unwrap();
    write("labels.safetensors", &file);
    Outcome::of(bench.folder.path())
}

fn settled(outcome: &Outcome, bill: &[String]) -> Violations {
    let mut violations = Violations::default();
    settle(outcome, bill, &mut violations);
    violations
}

#[test]
fn a_finished_job_settles_with_its_bill_and_every_lie_is_found() {
    let bench = Bench::new(OnAmbiguous::Hold);
    let (images, labels) = taught(4);
    let outcome = finished(&bench, &images, &labels, 4, 1);
    let bill: Vec<String> = outcome.labelled().into_iter().collect();
    let with_doubt = [&bill[..], &["in doubt".to_owned()]].concat();
    assert!(settled(&outcome, &bill).is_empty());
    assert!(settled(&outcome, &with_doubt).is_empty());
    assert_eq!(
        settled(&outcome, &bill[1..]).others.len(),
        1,
        "a label that was never billed"
    );
    let outcome = finished(&bench, &images, &labels, 4, 0);
    let lost = settled(&outcome, &with_doubt);
    assert_eq!(
        (lost.labels_lost, lost.others.len()),
        (1, 1),
        "paid for, in doubt nowhere, gone"
    );
    let outcome = finished(&bench, &images, &labels, 3, 1);
    assert_eq!(
        settled(&outcome, &bill).others.len(),
        1,
        "more labels than billed queries"
    );
    let mut wrong = labels.clone();
    wrong[0] += 0.1;
    let outcome = finished(&bench, &images, &wrong, 4, 1);
    assert_eq!(
        settled(&outcome, &bill).others,
        ["1 labels are not the teacher's answer"]
    );
}
