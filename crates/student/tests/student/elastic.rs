//! Ranks that die, are cut off and come back: the student is the one that nobody disturbed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::time::Duration;

use stillhouse_collective::ring::Membership;
use stillhouse_collective::{AbortHandle, GroupId, Local, Ring, RingListener};
use stillhouse_core::job::{Architecture, Determinism, Optimizer};
use stillhouse_core::sampler::{Purpose, Stream};
use stillhouse_student::train::{Augmentation, EvaluationSet, Progress, Session, TrainConfig, Training, train};
use stillhouse_student::{NetworkSpec, StudentError};

use crate::world::{Noise, alone, config, generator, on, ring, small_script, training, zoo};

const SAMPLES: u64 = 118;
/// Processes that come and go.
const MEMBERS: usize = 5;
/// Worlds that end badly before one may finish.
const DISASTERS: u64 = 8;

/// How a world ends.
#[derive(Clone, Copy, Debug)]
enum End {
    /// This member dies once so many steps are applied, and forgets everything.
    Death { member: usize, step: u64 },
    /// This member's connections are cut after so long.
    Cut { member: usize, after: Duration },
    /// It does not.
    Peace,
}

/// One world of `members`; each goes on with the session that it has. Results by member.
fn world(
    group: u64,
    members: &BTreeSet<usize>,
    sessions: &mut BTreeMap<usize, Session>,
    training: &Training<'_>,
    end: End,
) -> BTreeMap<usize, (Session, Result<f32, StudentError>)> {
    let listeners: Vec<RingListener> = members
        .iter()
        .map(|_| RingListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let peers: Vec<SocketAddr> = listeners.iter().map(|l| l.local_addr().unwrap()).collect();
    std::thread::scope(|scope| {
        let ranks: Vec<_> = (members.iter().zip(&listeners).enumerate())
            .map(|(rank, (member, listener))| {
                let kept = sessions.remove(member);
                let (peers, member) = (&peers, *member);
                scope.spawn(move || {
                    let mut session = kept.unwrap_or_else(|| Session::begin(training).unwrap());
                    let abort = AbortHandle::new();
                    if let End::Cut { member: at, after } = end
                        && at == member
                    {
                        let abort = abort.clone();
                        std::thread::spawn(move || {
                            std::thread::sleep(after);
                            abort.abort();
                        });
                    }
                    let membership = Membership {
                        rank,
                        peers,
                        group: GroupId(group),
                        secret: &[7; 32],
                        seal: None,
                        // A member that is cut off while it joins is missed only in time.
                        deadline: Duration::from_secs(if matches!(end, End::Peace) { 60 } else { 1 }),
                    };
                    let mut observe = |progress: &Progress, session: &Session| {
                        assert_eq!(progress.step, session.step());
                        match end {
                            End::Death { member: at, step } if at == member && progress.step >= step => {
                                ControlFlow::Break(())
                            }
                            _ => ControlFlow::Continue(()),
                        }
                    };
                    let ended = match Ring::join(listener, &membership, &abort) {
                        Ok(mut ring) => session.train(training, &mut ring, &mut observe),
                        Err(source) => Err(StudentError::Collective { step: 0, source }),
                    };
                    (member, (session, ended))
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// The weights after [`DISASTERS`] drawn from `seed`.
fn tormented(training: &Training<'_>, seed: u64) -> Vec<u8> {
    let draw = Stream::new(seed, Purpose::Shuffle, 9);
    let mut sessions: BTreeMap<usize, Session> = BTreeMap::new();
    let mut furthest = 0;
    for disaster in 0..=DISASTERS {
        let draw = draw.fork(disaster);
        let size = 2 + draw.below(0, MEMBERS as u64 - 1) as usize;
        let members: BTreeSet<usize> = draw.permutation(MEMBERS as u32)[..size]
            .iter()
            .map(|m| *m as usize)
            .collect();
        let member = *members.iter().nth(draw.below(1, size as u64) as usize).unwrap();
        let end = match (disaster, draw.below(2, 2)) {
            (DISASTERS, _) => End::Peace,
            (_, 0) => End::Death {
                member,
                step: furthest + draw.below(3, 3),
            },
            _ => End::Cut {
                member,
                after: Duration::from_millis(draw.below(3, 30)),
            },
        };
        let results = world(1 + disaster, &members, &mut sessions, training, end);
        let finished = results.values().all(|(_, ended)| ended.is_ok());
        for (at, (session, ended)) in results {
            let is_expected = matches!(
                ended,
                Ok(_) | Err(StudentError::Collective { .. } | StudentError::Stopped { .. })
            );
            assert!(is_expected, "{end:?} of {members:?}: {ended:?}");
            furthest = furthest.max(session.step());
            if !matches!(end, End::Death { member, .. } if member == at) {
                sessions.insert(at, session);
            }
        }
        if finished {
            let weights: BTreeSet<Vec<u8>> = members
                .iter()
                .map(|m| sessions[m].network().weights().unwrap())
                .collect();
            assert_eq!(weights.len(), 1, "the ranks differ");
            return weights.into_iter().next().unwrap();
        }
    }
    panic!("the last world ends in peace");
}

fn expect_undisturbed_bits(spec: &NetworkSpec, config: &TrainConfig, seeds: std::ops::Range<u64>) {
    let noise = Noise::new(SAMPLES, spec.shape());
    let training = training(spec, noise.set(), config, 1);
    let want = alone(&training).unwrap().network.weights().unwrap();
    for seed in seeds {
        assert!(
            tormented(&training, seed) == want,
            "other bits under the disasters of seed {seed}"
        );
    }
}

#[test]
fn a_plain_network_comes_through_disasters_with_the_same_bits() {
    let augmentation = Augmentation::Jitter {
        degrees: 10.0,
        shift: 0.1,
    };
    let config = TrainConfig {
        augmentation,
        ..config(12)
    };
    expect_undisturbed_bits(&zoo(Architecture::Lenet5Half, 1, 12), &config, 0..4);
}

#[test]
fn running_statistics_dropout_and_adam_come_through_disasters_with_the_same_bits() {
    let config = TrainConfig {
        optimizer: Optimizer::Adam,
        learning_rate: 1e-3,
        ..config(5)
    };
    expect_undisturbed_bits(&zoo(Architecture::AlexnetHalf, 1, 16), &config, 4..6);
}

#[test]
fn a_module_comes_through_disasters_with_the_same_bits() {
    let _generator = generator();
    expect_undisturbed_bits(&small_script(), &config(12), 6..8);
}

/// Labels and images of which every epoch measures accuracy.
fn measured<'a>(base: &Training<'a>, images: &'a [u8], classes: &'a [u16]) -> Training<'a> {
    Training {
        evaluation: Some(EvaluationSet {
            images,
            classes: Some(classes),
            teacher: &[(3, 1), (50, 2)],
        }),
        ..base.clone()
    }
}

#[test]
fn a_state_goes_on_where_it_was_made_with_all_that_was_measured() {
    let spec = zoo(Architecture::Lenet5Half, 1, 12);
    let noise = Noise::new(SAMPLES, spec.shape());
    let config = TrainConfig {
        evaluate_every: 1,
        ..config(4)
    };
    let base = training(&spec, noise.set(), &config, 1);
    let classes: Vec<u16> = (0..SAMPLES).map(|at| (at % 10) as u16).collect();
    let training = measured(&base, &noise.images, &classes);
    let mut states = BTreeMap::new();
    let mut keep = |progress: &Progress, session: &Session| {
        states.insert(progress.step, session.state().unwrap());
        ControlFlow::Continue(())
    };
    let mut whole = Session::begin(&training).unwrap();
    let loss = whole.train(&training, &mut Local, &mut keep).unwrap();
    assert_eq!(whole.evaluations().len(), 4);
    for (step, state) in &states {
        let mut resumed = Session::resume(&training, state).unwrap();
        assert_eq!(resumed.step(), *step);
        let mut observe = |progress: &Progress, _: &Session| {
            assert!(progress.step > *step, "a step was applied twice");
            ControlFlow::Continue(())
        };
        assert_eq!(resumed.train(&training, &mut Local, &mut observe).unwrap(), loss);
        assert_eq!(resumed.evaluations(), whole.evaluations());
        assert!(
            resumed.state().unwrap() == whole.state().unwrap(),
            "other bits after step {step}"
        );
    }
}

#[test]
fn an_evaluation_is_the_same_whoever_shares_it() {
    let spec = zoo(Architecture::Lenet5Half, 1, 12);
    let noise = Noise::new(SAMPLES, spec.shape());
    let config = config(2);
    let base = training(&spec, noise.set(), &config, 1);
    let classes: Vec<u16> = (0..SAMPLES).map(|at| (at % 10) as u16).collect();
    let training = measured(&base, &noise.images, &classes);
    let want = alone(&training).unwrap().evaluation.unwrap();
    assert_eq!((want.labelled, want.answered), (SAMPLES, 2));
    for ranks in [2, 3, 5] {
        let found = ring(ranks, |world| {
            train(&training, world, &mut on).unwrap().evaluation.unwrap()
        });
        assert!(
            found.iter().all(|evaluation| *evaluation == want),
            "{ranks} ranks: {found:?}"
        );
    }
}

#[test]
fn a_damaged_or_foreign_state_is_refused_with_a_sentence() {
    let spec = zoo(Architecture::Lenet5Half, 1, 12);
    let noise = Noise::new(SAMPLES, spec.shape());
    let (sgd, adam) = (
        config(1),
        TrainConfig {
            optimizer: Optimizer::Adam,
            ..config(1)
        },
    );
    let of_sgd = training(&spec, noise.set(), &sgd, 1);
    let state = Session::begin(&of_sgd).unwrap().state().unwrap();
    let refused = |training: &Training<'_>, state: &[u8]| Session::resume(training, state).unwrap_err().to_string();
    let of_adam = training(&spec, noise.set(), &adam, 1);
    assert!(refused(&of_adam, &state).contains("adam.means"));
    assert!(refused(&of_sgd, &state[..state.len() / 2]).starts_with("cannot go on with a training"));
    let weights = alone(&of_sgd).unwrap().network.weights().unwrap();
    assert!(refused(&of_sgd, &weights).contains("expected metadata that tells the step"));
    let larger = zoo(Architecture::Lenet5Half, 1, 16);
    let noise = Noise::new(SAMPLES, larger.shape());
    assert!(refused(&training(&larger, noise.set(), &sgd, 1), &state).contains("parameters: expected"));
}

#[test]
fn fast_sums_stay_near_for_any_number_of_ranks_and_through_disasters() {
    let spec = zoo(Architecture::Lenet5Half, 1, 12);
    let noise = Noise::new(SAMPLES, spec.shape());
    let config = TrainConfig {
        determinism: Determinism::Fast,
        ..config(6)
    };
    let training = training(&spec, noise.set(), &config, 1);
    let floats = |weights: &[u8]| -> Vec<f32> {
        let file = safetensors::SafeTensors::deserialize(weights).unwrap();
        let mut names: Vec<&str> = file.names();
        names.sort_unstable();
        let values = names
            .into_iter()
            .flat_map(|name| file.tensor(name).unwrap().data().to_vec());
        let bytes: Vec<u8> = values.collect();
        bytes
            .chunks_exact(4)
            .map(|four| f32::from_le_bytes(four.try_into().unwrap()))
            .collect()
    };
    let strict = TrainConfig {
        determinism: Determinism::Strict,
        ..config.clone()
    };
    let strict = self::training(&spec, noise.set(), &strict, 1);
    let want = floats(&alone(&strict).unwrap().network.weights().unwrap());
    let near = |weights: &[u8], who: &str| {
        let worst = floats(weights)
            .iter()
            .zip(&want)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f32::max);
        assert!(worst < 1e-3, "{who}: {worst}");
    };
    for ranks in [1, 2, 3, 5] {
        let found = ring(ranks, |world| {
            train(&training, world, &mut on).unwrap().network.weights().unwrap()
        });
        assert!(
            found.iter().all(|weights| *weights == found[0]),
            "{ranks} ranks differ among themselves"
        );
        near(&found[0], &format!("{ranks} ranks"));
    }
    near(&tormented(&training, 11), "disasters");
}
