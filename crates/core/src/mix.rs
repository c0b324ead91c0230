//! The canonical mix: the bytes that are scored, hashed, sent to the teacher and trained on.
//!
//! Source: Active Mixup (arXiv 2003.13960), eq. 1. The released code scores a float mix and queries
//! a truncated one (and wraps white to black); here there is one integer mix, rounded to nearest,
//! so that every machine makes identical bytes.

use crate::pool::{LAMBDA_DENOMINATOR, Lambda};

/// Writes `round(lambda * a + (1 - lambda) * b)` into `out`, halves up.
///
/// All three slices hold one image `[channels * height * width]` of `u8`.
///
/// # Panics
/// When the lengths differ.
pub fn mix_into(a: &[u8], b: &[u8], lambda: Lambda, out: &mut [u8]) {
    assert!(a.len() == b.len() && a.len() == out.len(), "images of one shape");
    let weight_a = u16::from(lambda.hundredths());
    let weight_b = u16::from(LAMBDA_DENOMINATOR) - weight_a;
    for ((out, &a), &b) in out.iter_mut().zip(a).zip(b) {
        // At most 100 * 255 + 50 = 25,550: fits u16.
        let sum = weight_a * u16::from(a) + weight_b * u16::from(b) + 50;
        *out = (sum / 100) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mix_is_the_exact_value_rounded_to_nearest() {
        for hundredths in 0..=100 {
            let lambda = Lambda::from_hundredths(hundredths).expect("at most 100");
            for a in 0..=255_u8 {
                for b in 0..=255_u8 {
                    let mut out = [0];
                    mix_into(&[a], &[b], lambda, &mut out);
                    let exact =
                        (f64::from(hundredths) * f64::from(a) + f64::from(100 - hundredths) * f64::from(b)) / 100.0;
                    assert!((f64::from(out[0]) - exact).abs() <= 0.5, "{hundredths} {a} {b}");
                }
            }
        }
    }

    #[test]
    fn the_ends_are_the_images_themselves() {
        let (a, b) = ([0, 255, 7], [255, 1, 9]);
        let mut out = [0; 3];
        mix_into(&a, &b, Lambda::from_hundredths(100).expect("valid"), &mut out);
        assert_eq!(out, a);
        mix_into(&a, &b, Lambda::from_hundredths(0).expect("valid"), &mut out);
        assert_eq!(out, b);
    }
}
