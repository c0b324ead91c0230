//! However a range is cut, capped and shared out, its entries are the same.

use super::*;

#[test]
fn threads_change_nothing() {
    for mode in [ScanMode::Exact, ScanMode::Guarded] {
        let scan = |threads| {
            let mut scorer = Trained::digits().scorer(90, mode, threads, Acquisition::LeastConfidence);
            scan_all(&mut scorer, 50, 0.02)
        };
        assert_eq!(scan(1), scan(3), "{mode:?}");
    }
}

#[test]
fn the_entries_are_all_pairs_up_to_the_bound_however_the_range_is_cut() {
    let (k, width) = (40, 0.03);
    for mode in [ScanMode::Exact, ScanMode::Guarded] {
        let mut scorer = Trained::digits().scorer(80, mode, 2, Acquisition::Margin);
        let pairs = scorer.pool().pairs();
        let every = scan_all(&mut scorer, pairs as usize, 0.0).entries;
        assert_eq!(every.len() as u64, pairs);
        let bound = every[k - 1].score.score() + width;
        let want: Vec<Entry> = every.into_iter().filter(|entry| entry.score.score() <= bound).collect();
        let whole = scan_all(&mut scorer, k, width);
        assert_eq!((whole.scanned, whole.histogram.total()), (pairs, pairs));
        assert_eq!(whole.entries, want, "{mode:?}");
        for cuts in [[0, 1, 700, pairs], [0, 255, 257, pairs]] {
            let mut band = Band::new(k, width, f32::INFINITY);
            let mut counts = 0;
            for range in cuts.windows(2).map(|cut| cut[0]..cut[1]) {
                let keep = Keep {
                    ceiling: band.bound(),
                    ..Keep::best(k, width)
                };
                let scan = scorer.scan(range, keep, &mut |_| ControlFlow::Continue(()));
                let scan = scan.expect("scans");
                counts += scan.histogram.total();
                scan.entries.into_iter().for_each(|entry| band.insert(entry));
            }
            assert_eq!(counts, pairs);
            assert_eq!(band.into_sorted(), want, "{mode:?} {cuts:?}");
        }
    }
}

#[test]
fn capped_scans_one_after_another_find_what_one_without_a_cap_finds_whatever_the_threads() {
    let (k, width) = (60, 0.02);
    for mode in [ScanMode::Exact, ScanMode::Guarded] {
        let mut scorer = Trained::digits().scorer(80, mode, 2, Acquisition::Margin);
        let mut alone = Trained::digits().scorer(80, mode, 1, Acquisition::Margin);
        let whole = scan_all(&mut scorer, k, width);
        for cap in [0, 30, 500] {
            let mut band = Band::new(k, width, f32::INFINITY);
            let (mut at, mut parts, mut histogram) = (0, 0, Histogram::new(Acquisition::Margin.range(10)));
            while at < whole.scanned {
                let keep = Keep {
                    cap,
                    ceiling: band.bound(),
                    ..Keep::best(k, width)
                };
                let mut go_on = |_| ControlFlow::Continue(());
                let scan = scorer.scan(at..whole.scanned, keep, &mut go_on).expect("scans");
                let same = alone.scan(at..whole.scanned, keep, &mut go_on).expect("scans");
                assert_eq!(scan, same, "{mode:?} {cap}");
                assert_eq!(scan.histogram.total(), scan.scanned);
                assert!(
                    scan.scanned > 0 && scan.entries.len() <= cap + 256,
                    "{}",
                    scan.entries.len()
                );
                (at, parts) = (at + scan.scanned, parts + 1);
                histogram.merge(&scan.histogram);
                scan.entries.into_iter().for_each(|entry| band.insert(entry));
            }
            assert!(parts > 1 || cap == 500, "cap {cap} cuts nothing");
            assert_eq!(histogram, whole.histogram);
            assert_eq!(band.into_sorted(), whole.entries, "{mode:?} {cap}");
        }
    }
}

/// Scores of some pairs in order, in reverse, and each behind another number of others,
/// by the exact definition (`false`) or the approximation (`true`) as `kinds` says.
fn assert_place_is_without_influence(scorer: &mut Scorer, pairs: u64, kinds: &[bool]) {
    for &approximate in kinds {
        let ids: Vec<PairId> = (0..pairs).map(PairId).collect();
        let want = scorer.entries(approximate, &ids).expect("scores");
        assert_eq!(
            want.iter().map(|entry| entry.pair).collect::<Vec<_>>(),
            ids,
            "in the order asked"
        );
        let reversed: Vec<PairId> = ids.iter().rev().copied().collect();
        let mut got = scorer.entries(approximate, &reversed).expect("scores");
        got.reverse();
        assert_eq!(got, want, "reversed, approximate: {approximate}");
        for start in [1, 2, 3, 7, 22] {
            let got = scorer.entries(approximate, &ids[start..]).expect("scores");
            assert_eq!(got, want[start..], "from {start}, approximate: {approximate}");
        }
        let alone = scorer.entries(approximate, &ids[5..6]).expect("scores");
        assert_eq!(alone, want[5..6], "alone, approximate: {approximate}");
    }
}

#[test]
fn a_score_does_not_depend_on_its_place_in_a_batch() {
    let mut scorer = Trained::digits().scorer(60, ScanMode::Guarded, 1, Acquisition::LeastConfidence);
    assert_place_is_without_influence(&mut scorer, 700, &[false, true]);
}

#[test]
fn a_score_does_not_depend_on_its_place_for_deep_networks_either() {
    let shape = ImageShape {
        channels: 3,
        height: 32,
        width: 32,
    };
    let stream = stillhouse_core::sampler::Stream::new(9, stillhouse_core::sampler::Purpose::Initialisation, 0);
    let bytes: Vec<u8> = (0..12 * shape.len() as u64)
        .map(|at| (stream.unit(at) * 256.0) as u8)
        .collect();
    // libtorch's frozen graph may sum a row in another order in another place, on some processors: only its distance
    // from the exact score is held, which is what the guard asks.
    let kinds: [(Architecture, u64, &[bool]); 2] = [
        (Architecture::Resnet20, 30, &[false, true]),
        (Architecture::AlexnetHalf, 40, &[false]),
    ];
    for (architecture, pairs, kinds) in kinds {
        let spec = NetworkSpec::Zoo {
            architecture,
            shape,
            classes: 10,
        };
        let network = Network::build(&spec, 2, Device::Cpu).expect("fits");
        let weights = network.weights().expect("reads");
        let images = ImageSet::new(shape, bytes.clone()).expect("whole images");
        let config = scorer_config(images, ScanMode::Guarded, 1, Acquisition::Entropy);
        let mut scorer = Scorer::new(&spec, &weights, &config).expect("fits");
        assert!(!scorer.scans_exactly());
        assert_place_is_without_influence(&mut scorer, pairs, kinds);
        let deviation = scorer
            .calibrate(&(0..51).map(PairId).collect::<Vec<_>>())
            .expect("scores");
        assert!(deviation < 1e-4, "{architecture:?} {deviation}");
    }
}
