//! When the next images may be sent: the job's rate, and what the teacher makes of it.
//!
//! A virtual clock of images (the leaky bucket as a meter, ITU-T I.371: GCRA) shared by all
//! connections. A teacher that refuses without naming a time halves the rate that it last stood,
//! and the rate then grows back by a constant amount a second (additive increase, multiplicative
//! decrease). A teacher that names a time is obeyed to the letter.

use std::time::Duration;

use tokio::time::Instant;

/// The rate never falls below one image a second, or the job's own rate where that is lower:
/// pauses, not the rate, hold back a teacher that refuses everything.
const LOWEST_RATE: f64 = 1.0;

/// Part of the best throughput so far that a second gives back to a reduced rate: a single
/// refusal is forgotten in 5 s, a row of them in 10 s.
const RECOVERY: f64 = 0.1;

/// Time over which throughput is measured.
const WINDOW: Duration = Duration::from_secs(1);

/// When images may be sent.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    /// Images a second that the job allows.
    limit: Option<f64>,
    /// Images a second that are tried now; `None` without any limit.
    rate: Option<f64>,
    /// Images a second that one second adds to a reduced rate.
    growth: f64,
    grown: Instant,
    /// When the images sent so far have used up their time.
    next: Instant,
    paused: Instant,
    throughput: Throughput,
}

/// Images answered a second; 0 until a window is full.
#[derive(Clone, Debug)]
struct Throughput {
    since: Instant,
    images: u32,
    last: f64,
    best: f64,
}

impl Pace {
    /// At most `limit` images a second from `now` on; one request may go at once.
    pub(super) fn new(limit: Option<f64>, now: Instant) -> Self {
        let throughput = Throughput {
            since: now,
            images: 0,
            last: 0.0,
            best: 0.0,
        };
        Self {
            limit,
            rate: limit,
            growth: 0.0,
            grown: now,
            next: now,
            paused: now,
            throughput,
        }
    }

    /// Takes the time of `n` images, which may be sent at once.
    ///
    /// # Errors
    /// When to try again; nothing was taken.
    pub(super) fn take(&mut self, n: usize, now: Instant) -> Result<(), Instant> {
        let free = self.next.max(self.paused);
        if free > now {
            return Err(free);
        }
        if let Some(rate) = self.rate {
            // A rate is at least 1e-300 images a second in theory: a year is for ever.
            let seconds = (n as f64 / rate).min(86_400.0 * 365.0);
            self.next = self.next.max(now) + Duration::from_secs_f64(seconds);
        }
        Ok(())
    }

    /// Images a second that are tried now; 0 without any limit.
    pub(super) fn rate(&self) -> f64 {
        self.rate.unwrap_or(0.0)
    }

    /// Until when nothing at all is sent.
    pub(super) fn paused(&self) -> Instant {
        self.paused
    }

    /// Sends nothing before `until`.
    pub(super) fn pause(&mut self, until: Instant) {
        self.paused = self.paused.max(until);
    }

    /// The teacher answered `n` images.
    pub(super) fn answered(&mut self, n: usize, now: Instant) {
        self.throughput.add(n, now);
        let seconds = now.saturating_duration_since(self.grown).min(WINDOW).as_secs_f64();
        self.grown = now;
        let ceiling = self.limit.unwrap_or(f64::INFINITY);
        self.rate = self.rate.map(|rate| (rate + self.growth * seconds).min(ceiling));
    }

    /// The teacher refused because of the rate, and did not say until when. Without a rate, from the
    /// job or measured, there is nothing to halve, and the pause has to do.
    pub(super) fn halve(&mut self, now: Instant) {
        let measured = Some(self.throughput.last).filter(|rate| *rate > 0.0);
        let Some(current) = self.rate.into_iter().chain(measured).reduce(f64::min) else {
            return;
        };
        let lowest = self.limit.map_or(LOWEST_RATE, |limit| limit.min(LOWEST_RATE));
        self.rate = Some((current / 2.0).max(lowest));
        self.growth = self.throughput.best.max(current) * RECOVERY;
        self.grown = now;
    }
}

impl Throughput {
    fn add(&mut self, n: usize, now: Instant) {
        self.images = self.images.saturating_add(u32::try_from(n).unwrap_or(u32::MAX));
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed >= WINDOW {
            self.last = f64::from(self.images) / elapsed.as_secs_f64();
            self.best = self.best.max(self.last);
            self.since = now;
            self.images = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    /// Images sent in `span` by a caller that always has more and is answered at once.
    fn sent(pace: &mut Pace, n: usize, from: Instant, span: Duration) -> usize {
        let (mut now, mut images) = (from, 0);
        while now < from + span {
            match pace.take(n, now) {
                Ok(()) => {
                    images += n;
                    pace.answered(n, now);
                }
                Err(free) => now = free,
            }
        }
        images
    }

    #[test]
    fn no_more_than_the_rate_and_one_request_is_sent() {
        let start = Instant::now();
        for (rate, n) in [(10.0, 1), (100.0, 64), (0.5, 3)] {
            let mut pace = Pace::new(Some(rate), start);
            let images = sent(&mut pace, n, start, seconds(100.0));
            assert!(images as f64 <= rate * 100.0 + n as f64, "{images} at {rate}");
            assert!(images as f64 >= rate * 100.0 - n as f64, "{images} at {rate}");
        }
    }

    #[test]
    fn idle_time_is_not_saved_up() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(10.0), start);
        let later = start + seconds(60.0);
        let images = sent(&mut pace, 1, later, seconds(10.0));
        assert!(images <= 101, "{images}");
    }

    #[test]
    fn a_pause_holds_everybody_exactly_until_it_ends() {
        let start = Instant::now();
        let mut pace = Pace::new(None, start);
        pace.pause(start + seconds(7.0));
        pace.pause(start + seconds(3.0));
        assert_eq!(pace.take(1, start + seconds(6.9)), Err(start + seconds(7.0)));
        assert_eq!(pace.take(1, start + seconds(7.0)), Ok(()));
    }

    #[test]
    fn a_refusal_halves_the_rate_and_time_gives_it_back() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(100.0), start);
        pace.halve(start);
        let slow = sent(&mut pace, 1, start, seconds(1.0));
        assert!((48..=60).contains(&slow), "{slow}");
        let mut now = start + seconds(1.0);
        for _ in 0..60 {
            sent(&mut pace, 1, now, seconds(1.0));
            now += seconds(1.0);
        }
        let fast = sent(&mut pace, 1, now, seconds(1.0));
        assert!((99..=101).contains(&fast), "{fast}");
    }

    #[test]
    fn without_a_limit_the_measured_throughput_is_halved() {
        let start = Instant::now();
        let mut pace = Pace::new(None, start);
        let mut now = start;
        for _ in 0..300 {
            assert_eq!(pace.take(2, now), Ok(()));
            now += seconds(0.01);
            pace.answered(2, now);
        }
        pace.halve(now);
        let images = sent(&mut pace, 1, now, seconds(1.0));
        assert!((95..=115).contains(&images), "{images}");
    }

    #[test]
    fn a_refusal_before_anything_is_known_only_pauses() {
        let start = Instant::now();
        let mut pace = Pace::new(None, start);
        pace.halve(start);
        assert_eq!(pace.rate, None);
    }

    #[test]
    fn the_rate_has_a_floor() {
        let start = Instant::now();
        let mut pace = Pace::new(Some(0.2), start);
        (0..50).for_each(|_| pace.halve(start));
        assert_eq!(pace.rate, Some(0.2));
    }
}
