//! From wish to label, by one caller and by many at once.

use std::collections::HashSet;

use stillhouse_core::SoftLabel;
use stillhouse_core::plan::Arm;
use stillhouse_core::pool::{Candidate, Lambda, PairId};
use stillhouse_core::{Key, Sample};
use stillhouse_ledger::{Admission, Genesis, Ledger, LedgerError, OnAmbiguous, Permit, Proof, Request, RequestId};

use crate::{REQUEST, genesis, label, open, permits, permitted, request, requests, send};

#[tokio::test]
async fn a_key_is_asked_once_and_its_label_is_known_ever_after() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 10);
    let twice = ledger.admit(vec![request(1), request(1)]).await.expect("written");
    assert!(
        matches!(twice[..], [Admission::Permitted(_), Admission::InFlight]),
        "{twice:?}"
    );
    let permits = permits(&twice);
    send(&ledger, &permits).await;
    ledger.commit(vec![(permits[0], label(1))]).await.expect("written");
    ledger
        .commit(vec![(permits[0], label(2))])
        .await
        .expect("a label that comes again is ignored");
    drop(ledger);
    let ledger = open(dir.path(), 10);
    assert_eq!(
        ledger.admit(vec![request(1)]).await.expect("written"),
        [Admission::Known(label(1))]
    );
    let keys = vec![request(1).key, request(2).key];
    assert_eq!(ledger.labels(keys).await.expect("readable"), [Some(label(1)), None]);
    assert_eq!(ledger.counts().await.expect("open").billed(), 1);
}

#[tokio::test]
async fn only_a_proof_gives_a_sent_query_back() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 4);
    let permits = permitted(&ledger, 0..4).await;
    send(&ledger, &permits[..3]).await;
    let proofs = [
        Proof::NeverConnected,
        Proof::Refused { status: 429 },
        Proof::Refused { status: 500 },
        Proof::NeverConnected,
    ];
    for (permit, proof) in permits.iter().zip(proofs) {
        ledger.release(REQUEST, vec![*permit], proof).await.expect("written");
    }
    let counts = ledger.counts().await.expect("open");
    assert_eq!((counts.reserved, counts.sent, counts.ambiguous), (0, 0, 1));
    assert_eq!(counts.left(), 3);
    let marked = ledger.mark_sent(REQUEST, vec![permits[3]]).await.expect("written");
    assert_eq!(marked, [], "a permit given back is void");
}

#[tokio::test]
async fn a_query_is_sent_by_one_request_which_may_ask_twice() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 5);
    let permits = permitted(&ledger, 0..4).await;
    let other = RequestId(8);
    send(&ledger, &permits[..2]).await;
    let doubled = [&permits[1..], &permits[1..]].concat();
    let marked = ledger.mark_sent(other, doubled).await.expect("written");
    assert_eq!(marked, permits[2..], "what nobody sent, and each once");
    let again = ledger.mark_sent(REQUEST, permits.clone()).await.expect("written");
    assert_eq!(again, permits[..2], "a lost answer is told again");
    ledger
        .spent(REQUEST, permits[..1].to_vec(), "nonsense")
        .await
        .expect("written");
    let again = ledger.mark_sent(REQUEST, permits.clone()).await.expect("written");
    assert_eq!(again, permits[1..2], "what is settled is not sent again");
}

#[tokio::test]
async fn a_report_counts_only_from_who_sent() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 5);
    let permits = permitted(&ledger, 0..3).await;
    send(&ledger, &permits[..2]).await;
    let before = ledger.entries().await.expect("readable");
    assert_eq!(before[0].charges[0].request, Some(REQUEST));
    assert_eq!(before[2].charges[0].request, None);
    let (other, sent) = (RequestId(8), || permits[..2].to_vec());
    ledger
        .release(other, sent(), Proof::NeverConnected)
        .await
        .expect("written");
    ledger.ambiguous(other, sent(), "lost").await.expect("written");
    ledger.spent(other, sent(), "nonsense").await.expect("written");
    ledger.give_back(sent()).await.expect("written");
    assert_eq!(ledger.entries().await.expect("readable"), before, "nothing changed");
    ledger.give_back(permits.clone()).await.expect("written");
    ledger
        .release(REQUEST, permits[..1].to_vec(), Proof::NeverConnected)
        .await
        .expect("written");
    ledger
        .commit(vec![(permits[1], label(1))])
        .await
        .expect("a label is welcome from anybody");
    let counts = ledger.counts().await.expect("open");
    assert_eq!((counts.reserved, counts.sent, counts.committed), (0, 0, 1));
}

#[tokio::test]
async fn a_query_in_doubt_is_sent_again_as_often_as_the_job_says() {
    let dir = tempfile::tempdir().expect("a folder");
    let resend = OnAmbiguous::Resend { attempts: 1 };
    let resend = Genesis {
        on_ambiguous: resend,
        ..genesis(10)
    };
    let ledger = Ledger::create_or_open(dir.path(), &resend).expect("new");
    let first = permitted(&ledger, 0..1).await;
    send(&ledger, &first).await;
    ledger
        .ambiguous(REQUEST, first.clone(), "the connection was lost")
        .await
        .expect("written");
    let second = permitted(&ledger, 0..1).await;
    send(&ledger, &second).await;
    ledger
        .ambiguous(REQUEST, second.clone(), "lost again")
        .await
        .expect("written");
    let held = ledger.admit(requests(0..1)).await.expect("written");
    assert_eq!(
        held,
        [Admission::Held {
            cause: "lost again".into()
        }]
    );
    assert_eq!(
        ledger.counts().await.expect("open").ambiguous,
        2,
        "both may have been billed"
    );

    // The first answer arrives after all, and later the second.
    ledger.commit(vec![(first[0], label(1))]).await.expect("written");
    ledger.commit(vec![(second[0], label(2))]).await.expect("written");
    assert_eq!(
        ledger.admit(requests(0..1)).await.expect("written"),
        [Admission::Known(label(1))]
    );
    let counts = ledger.counts().await.expect("open");
    assert_eq!((counts.committed, counts.spent, counts.ambiguous), (1, 1, 0));
}

#[tokio::test]
async fn under_an_idempotency_key_one_charge_is_sent_again() {
    let dir = tempfile::tempdir().expect("a folder");
    let genesis = Genesis {
        on_ambiguous: OnAmbiguous::IdempotencyKey { attempts: 2 },
        ..genesis(1)
    };
    let ledger = Ledger::create_or_open(dir.path(), &genesis).expect("new");
    let first = permitted(&ledger, 0..1).await;
    send(&ledger, &first).await;
    drop(ledger);

    let ledger = Ledger::create_or_open(dir.path(), &genesis).expect("closed");
    let second = permitted(&ledger, 0..1).await;
    assert_eq!(second[0].charge, first[0].charge, "no new charge: the budget is spent");
    assert!(second[0].epoch > first[0].epoch);
    assert_eq!(ledger.outstanding().await.expect("open").len(), 1);
    let other = RequestId(8);
    let old = ledger.mark_sent(other, first.clone()).await.expect("written");
    assert_eq!(old, [], "a permit of an earlier life is void");
    let used = ledger.mark_sent(REQUEST, second.clone()).await.expect("written");
    assert_eq!(used, [], "a request sends once");
    let sent = ledger.mark_sent(other, second.clone()).await.expect("written");
    assert_eq!(sent, second);
    let refused = Proof::Refused { status: 429 };
    ledger.release(other, second.clone(), refused).await.expect("written");
    let counts = ledger.counts().await.expect("open");
    assert_eq!(
        (counts.ambiguous, counts.left()),
        (1, 0),
        "the first may have been billed"
    );

    // What was not billed is no attempt: two are left.
    for request in [10, 11] {
        let again = permitted(&ledger, 0..1).await;
        let sent = ledger
            .mark_sent(RequestId(request), again.clone())
            .await
            .expect("written");
        ledger
            .ambiguous(RequestId(request), sent, "lost")
            .await
            .expect("written");
    }
    let held = ledger.admit(requests(0..1)).await.expect("written");
    assert_eq!(held, [Admission::Held { cause: "lost".into() }]);
    ledger.commit(vec![(first[0], label(1))]).await.expect("a late label");
    let known = ledger.admit(requests(0..1)).await.expect("written");
    assert_eq!(known, [Admission::Known(label(1))]);
    assert_eq!(ledger.counts().await.expect("open").billed(), 1);
}

#[tokio::test]
async fn an_invoice_gives_back_what_is_in_doubt_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 4);
    let permits = permitted(&ledger, 0..4).await;
    send(&ledger, &permits[..3]).await;
    ledger
        .ambiguous(REQUEST, permits[..1].to_vec(), "lost")
        .await
        .expect("written");
    ledger.commit(vec![(permits[1], label(1))]).await.expect("written");
    assert_eq!(ledger.acquit(permits.clone()).await.expect("written"), 1);
    let counts = ledger.counts().await.expect("open");
    assert_eq!(
        (counts.reserved, counts.sent, counts.ambiguous, counts.committed),
        (1, 1, 0, 1)
    );
    drop(ledger);

    // The charge that the dead process left in doubt, named as an entry shows it.
    let ledger = open(dir.path(), 4);
    let entries = ledger.entries().await.expect("readable");
    let charge = &entries
        .iter()
        .find(|entry| entry.key == permits[2].key)
        .expect("there")
        .charges[0];
    let permit = Permit {
        key: permits[2].key,
        epoch: charge.epoch,
        charge: charge.number,
    };
    assert_eq!(ledger.acquit(vec![permit]).await.expect("written"), 1);
    assert_eq!(ledger.counts().await.expect("open").left(), 3);
    permitted(&ledger, 2..3).await;
}

#[tokio::test]
async fn a_label_of_another_job_is_known_at_no_charge() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 2);
    let permits = permitted(&ledger, 0..2).await;
    send(&ledger, &permits[..1]).await;
    ledger.commit(vec![(permits[0], label(0))]).await.expect("written");
    let import = |number| {
        (
            request(number).key,
            request(number).sample,
            Arm::Active,
            label(number + 100),
        )
    };
    let imported = ledger.import((0..4).map(import).collect()).await.expect("written");
    assert_eq!(imported, 3, "a label that was bought stays");
    let marked = ledger.mark_sent(REQUEST, permits.clone()).await.expect("written");
    assert_eq!(marked, [], "what is known is not sent");
    drop(ledger);

    let ledger = open(dir.path(), 2);
    let known = ledger.admit(requests(0..4)).await.expect("written");
    let labels = [label(0), label(101), label(102), label(103)];
    assert_eq!(known, labels.map(Admission::Known));
    let counts = ledger.counts().await.expect("open");
    assert_eq!((counts.billed(), counts.imported, counts.left()), (1, 3, 1));
    let entries = ledger.entries().await.expect("readable");
    let origins: Vec<bool> = entries.iter().map(|entry| entry.imported).collect();
    assert_eq!(origins, [false, true, true, true]);
    let two = SoftLabel::from_probabilities(vec![0.5, 0.5], 2).expect("sums to one");
    let wrong = ledger
        .import(vec![(request(9).key, Sample::Seed(9), Arm::Active, two)])
        .await;
    assert!(
        matches!(wrong, Err(LedgerError::Classes { expected: 3, found: 2 })),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn queries_are_counted_by_what_was_asked() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 10);
    let lambda = Lambda::from_hundredths(34).expect("valid");
    let mix = |pair| {
        Sample::Mix(Candidate {
            pair: PairId(pair),
            lambda,
        })
    };
    let asked = [
        (Sample::Seed(0), Arm::Active),
        (Sample::Evaluation(0), Arm::Active),
        (mix(0), Arm::Active),
        (mix(1), Arm::Control),
        (mix(2), Arm::Control),
    ];
    let request = |(number, (sample, arm)): (u8, _)| Request {
        key: Key([number; 32]),
        sample,
        arm,
    };
    let requests: Vec<Request> = (0..).zip(asked).map(request).collect();
    let permits = permits(&ledger.admit(requests).await.expect("written"));
    assert_eq!(
        ledger.counts().await.expect("open").billed(),
        0,
        "what is reserved is not billed"
    );
    send(&ledger, &permits).await;
    let in_doubt = ledger.counts().await.expect("open");
    assert_eq!((in_doubt.billed(), in_doubt.by_category), (5, Default::default()));
    let answered = permits.into_iter().map(|permit| (permit, label(1))).collect();
    ledger.commit(answered).await.expect("valid");
    let billed = ledger.counts().await.expect("open").by_category;
    let found = (
        billed.seed,
        billed.evaluation,
        billed.synthetic_active,
        billed.synthetic_control,
    );
    assert_eq!(found, (1, 1, 1, 2));
}

#[tokio::test]
async fn a_label_of_another_number_of_classes_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), 10);
    let permits = permitted(&ledger, 0..1).await;
    send(&ledger, &permits).await;
    let two = SoftLabel::from_probabilities(vec![0.5, 0.5], 2).expect("sums to one");
    let error = ledger.commit(vec![(permits[0], two)]).await.expect_err("two classes");
    assert_eq!(error.to_string(), "expected labels of 3 classes, found 2");
}

/// What one of many callers does; returns the permits it got.
async fn ask_all(ledger: Ledger, keys: u32, first: u32) -> Vec<Permit> {
    let mut got = Vec::new();
    for number in (0..keys).map(|n| (n + first) % keys) {
        let permits = permits(&ledger.admit(vec![request(number)]).await.expect("written"));
        let request = RequestId(first.into());
        let sent = ledger.mark_sent(request, permits.clone()).await.expect("written");
        assert_eq!(sent, permits, "nobody else has this permit");
        got.extend(permits);
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_callers_share_the_budget_to_the_last_query() {
    const BUDGET: usize = 40;
    let dir = tempfile::tempdir().expect("a folder");
    let ledger = open(dir.path(), BUDGET as u64);
    let callers: Vec<_> = (0..16)
        .map(|n| tokio::spawn(ask_all(ledger.clone(), 60, n * 7)))
        .collect();
    let mut permits = Vec::new();
    for caller in callers {
        permits.extend(caller.await.expect("no panic"));
    }
    let keys: HashSet<Key> = permits.iter().map(|permit| permit.key).collect();
    assert_eq!(
        (permits.len(), keys.len()),
        (BUDGET, BUDGET),
        "each key once, the budget exactly"
    );
    let counts = ledger.counts().await.expect("open");
    assert_eq!((counts.sent, counts.left()), (BUDGET as u64, 0));
}
