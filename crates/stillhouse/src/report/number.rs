//! One way to write a number, in the report and in the terminal.

/// A whole number with commas between thousands: `1,999,000`.
#[must_use]
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `count` and the noun, in the plural unless there is one: `1 query`, `2 queries`.
#[must_use]
pub fn counted(value: u64, one: &str, many: &str) -> String {
    format!("{} {}", count(value), if value == 1 { one } else { many })
}

/// A fraction of 1 in percent: `98.74 %`.
#[must_use]
pub fn percent(fraction: f64) -> String {
    format!("{:.2} %", fraction * 100.0)
}

/// A difference of two fractions in percentage points with its sign: `+0.31`.
#[must_use]
pub fn points(difference: f64) -> String {
    let text = format!("{:+.2}", difference * 100.0);
    match text.strip_prefix(['+', '-']) {
        Some("0.00") => "0.00".to_owned(),
        _ => text.replace('-', "\u{2212}"),
    }
}

/// A duration: `0.8 s`, `12 s`, `4 min 05 s`, `2 h 10 min`. A negative or undefined one is 0.
#[must_use]
pub fn seconds(value: f64) -> String {
    let value = if value.is_finite() { value.max(0.0) } else { 0.0 };
    // A float cast saturates, so a hostile value stays a number.
    let whole = value.round() as u64;
    match whole {
        _ if value < 9.95 => format!("{value:.1} s"),
        0..60 => format!("{whole} s"),
        60..3600 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", count(whole / 3600), whole % 3600 / 60),
    }
}

/// A rate or a large count in three digits: `412`, `12.3 k`, `1.25 M`.
#[must_use]
pub fn compact(value: f64) -> String {
    let scales = [(1e12, " T"), (1e9, " G"), (1e6, " M"), (1e3, " k")];
    match scales.into_iter().find(|(scale, _)| value.abs() >= *scale) {
        Some((scale, unit)) => format!("{}{unit}", three_digits(value / scale)),
        None => three_digits(value),
    }
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// An amount of money, as exact as its size needs: `26.00`, `0.0042`.
#[must_use]
pub fn money(amount: f64) -> String {
    if amount == 0.0 || amount.abs() >= 0.01 {
        format!("{amount:.2}")
    } else {
        three_significant(amount)
    }
}

/// A small number with three significant digits, without trailing zeros: `0.00125`.
fn three_significant(value: f64) -> String {
    if !value.is_finite() || value == 0.0 {
        return value.to_string();
    }
    let places = (2.0 - value.abs().log10().floor()).clamp(0.0, 12.0) as usize;
    let text = format!("{value:.places$}");
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

/// A price of one query, which may be far below a hundredth: `0.001`.
#[must_use]
pub fn price(amount: f64) -> String {
    three_significant(amount)
}

/// A score or a cut: four decimals, or an exponent where that would say 0.
#[must_use]
pub fn score(value: f32) -> String {
    if value == 0.0 || value.abs() >= 0.0005 {
        format!("{value:.4}").replace('-', "\u{2212}")
    } else {
        format!("{value:.2e}").replace('-', "\u{2212}")
    }
}

/// The first digits of a hexadecimal digest: enough to tell two apart by eye.
#[must_use]
pub fn short(digest: &str) -> String {
    digest.chars().take(10).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_have_commas_between_thousands() {
        for (value, want) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_999_000, "1,999,000")] {
            assert_eq!(count(value), want);
        }
        assert_eq!(count(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(counted(1, "query", "queries"), "1 query");
        assert_eq!(counted(0, "query", "queries"), "0 queries");
    }

    #[test]
    fn a_difference_shows_its_sign_unless_it_is_nothing() {
        assert_eq!(points(0.0031), "+0.31");
        assert_eq!(points(-0.0031), "\u{2212}0.31");
        assert_eq!(points(-0.000_01), "0.00");
        assert_eq!(percent(0.9874), "98.74 %");
    }

    #[test]
    fn durations_read_as_people_say_them() {
        for (value, want) in [
            (0.84, "0.8 s"),
            (9.9, "9.9 s"),
            (12.4, "12 s"),
            (245.0, "4 min 05 s"),
            (7_800.0, "2 h 10 min"),
            (-1.0, "0.0 s"),
            (f64::NAN, "0.0 s"),
        ] {
            assert_eq!(seconds(value), want);
        }
    }

    #[test]
    fn rates_keep_three_digits() {
        for (value, want) in [
            (0.5, "0.50"),
            (412.4, "412"),
            (12_345.0, "12.3 k"),
            (1_254_000.0, "1.25 M"),
        ] {
            assert_eq!(compact(value), want);
        }
    }

    #[test]
    fn prices_below_a_hundredth_are_not_rounded_to_nothing() {
        assert_eq!(money(26.0), "26.00");
        assert_eq!(money(0.0), "0.00");
        assert_eq!(money(0.004_21), "0.00421");
        assert_eq!(price(0.001), "0.001");
        assert_eq!(price(2.5), "2.5");
        assert_eq!(price(120.0), "120");
        assert_eq!(score(0.4312), "0.4312");
        assert_eq!(score(-1.5), "\u{2212}1.5000");
        assert_eq!(score(1.2e-5), "1.20e\u{2212}5");
    }
}
