//! Student's t distribution, with any number of degrees of freedom above 0.

/// The probability that |T| is at least `t`.
pub fn two_sided(t: f64, freedom: f64) -> f64 {
    if t.is_nan() {
        return 1.0;
    }
    incomplete_beta(freedom / 2.0, 0.5, freedom / (freedom + t * t))
}

/// The value that |T| exceeds with probability `p`.
pub fn critical(p: f64, freedom: f64) -> f64 {
    let mut t = 1.0;
    while two_sided(2.0 * t, freedom) > p && t < 1e12 {
        t *= 2.0;
    }
    if two_sided(t, freedom) <= p {
        t = 0.0;
    }
    // The curve is convex, so Newton's steps from below stay below.
    let scale = ln_gamma((freedom + 1.0) / 2.0) - ln_gamma(freedom / 2.0) - (freedom * std::f64::consts::PI).ln() / 2.0;
    for _ in 0..50 {
        let density = (scale - (freedom + 1.0) / 2.0 * (t * t / freedom).ln_1p()).exp();
        let step = (two_sided(t, freedom) - p) / (2.0 * density);
        t += step;
        if step <= 1e-12 * t {
            break;
        }
    }
    t
}

/// The regularised incomplete beta function, by its continued fraction.
fn incomplete_beta(a: f64, b: f64, x: f64) -> f64 {
    if x <= 0.0 || x >= 1.0 {
        return x.clamp(0.0, 1.0);
    }
    // The fraction converges fast on this side only.
    if x > (a + 1.0) / (a + b + 2.0) {
        return 1.0 - incomplete_beta(b, a, 1.0 - x);
    }
    let front = (ln_gamma(a + b) - ln_gamma(a) - ln_gamma(b) + a * x.ln() + b * (1.0 - x).ln()).exp();
    let not_zero = |x: f64| if x.abs() < 1e-300 { 1e-300 } else { x };
    let (mut c, mut d) = (1.0, 1.0 / not_zero(1.0 - (a + b) * x / (a + 1.0)));
    let mut fraction = d;
    for step in 1..500 {
        let m = f64::from(step);
        let even = m * (b - m) * x / ((a + 2.0 * m - 1.0) * (a + 2.0 * m));
        let odd = -(a + m) * (a + b + m) * x / ((a + 2.0 * m) * (a + 2.0 * m + 1.0));
        let mut change = 1.0;
        for term in [even, odd] {
            d = 1.0 / not_zero(1.0 + term * d);
            c = not_zero(1.0 + term / c);
            change = c * d;
            fraction *= change;
        }
        if (change - 1.0).abs() < 1e-14 {
            break;
        }
    }
    front * fraction / a
}

/// The logarithm of the gamma function for positive numbers: Stirling's series, moved to where it is exact.
fn ln_gamma(mut x: f64) -> f64 {
    let mut shift = 0.0;
    while x < 10.0 {
        shift += x.ln();
        x += 1.0;
    }
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5)) - 1.0 / (1680.0 * x.powi(7));
    (x - 0.5) * x.ln() - x + (2.0 * std::f64::consts::PI).ln() / 2.0 + series - shift
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_the_values_of_the_tables() {
        for (p, freedom, t) in [
            (0.05, 1.0, 12.7062),
            (0.05, 2.0, 4.302_65),
            (0.05, 10.0, 2.228_14),
            (0.01, 5.0, 4.032_14),
            (0.2, 3.0, 1.637_74),
            (0.001, 30.0, 3.645_96),
            (0.05, 1e6, 1.959_97),
        ] {
            let found = critical(p, freedom);
            assert!((found / t - 1.0).abs() < 1e-5, "{p} {freedom}: {found}");
            assert!((two_sided(found, freedom) / p - 1.0).abs() < 1e-9);
        }
        // Of one degree of freedom it is Cauchy's.
        assert!((two_sided(3.0, 1.0) - 2.0 * (1.0f64 / 3.0).atan() / std::f64::consts::PI).abs() < 1e-12);
        assert_eq!((two_sided(0.0, 4.0), two_sided(f64::INFINITY, 4.0), two_sided(f64::NAN, 4.0)), (1.0, 0.0, 1.0));
    }
}
