//! How much a figure changed, and how well that is known: from several runs a side, from pairs of runs, or from the course of one run
//! a side. All on the logarithm, so that a change is a ratio and errors are relative.

use super::student::{critical, two_sided};

/// Slices that a batch needs for each that hangs together with it.
const BATCH: f64 = 5.0;
/// Least batches of a run.
const BATCHES: usize = 5;
/// The quantile of the normal distribution for 93.3 %: a tenth that is missed, with the room that `Question::level` has.
const QUANTILE: f64 = 1.497;
/// Most runs a side that are told as needed; beyond, that many would not do either.
pub const MOST_RUNS: u32 = 1000;

/// A change as a difference of natural logarithms.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// ln(new / base).
    pub change: f64,
    /// Its standard error.
    pub error: f64,
    /// Degrees of freedom of that.
    pub freedom: f64,
    /// By so much more it may be wrong, because the values are known no better.
    pub resolution: f64,
    /// Variance of the difference between one run of each side; `None` where nothing is known of how runs differ.
    pub variance: Option<f64>,
}

impl Estimate {
    /// Of pairs of logarithms, base first.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub fn of_pairs(pairs: &[(f64, f64)]) -> Result<Self, String> {
        if pairs.len() < 2 {
            return Err("one pair cannot tell: at least two are needed".into());
        }
        let changes: Vec<f64> = pairs.iter().map(|(base, new)| new - base).collect();
        let (change, variance, n) = (mean(&changes), variance(&changes), changes.len() as f64);
        Ok(Self { change, error: (variance / n).sqrt(), freedom: n - 1.0, resolution: 0.0, variance: Some(variance) })
    }

    /// Of the logarithms of independent runs, by Welch's interval. A side of one run is taken to vary as the other does.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub fn of_sides(base: &[f64], new: &[f64]) -> Result<Self, String> {
        let (n, m) = (base.len() as f64, new.len() as f64);
        let change = mean(new) - mean(base);
        let (v, w, freedom) = match (base.len(), new.len()) {
            (0, _) | (_, 0) => return Err("a side has no run".into()),
            (1, 1) => return Err("one run a side cannot tell".into()),
            (1, _) => (variance(new), variance(new), m - 1.0),
            (_, 1) => (variance(base), variance(base), n - 1.0),
            _ => {
                let (v, w) = (variance(base), variance(new));
                let freedom = (v / n + w / m).powi(2) / ((v / n).powi(2) / (n - 1.0) + (w / m).powi(2) / (m - 1.0));
                (v, w, if freedom.is_finite() { freedom } else { n + m - 2.0 })
            }
        };
        Ok(Self { change, error: (v / n + w / m).sqrt(), freedom, resolution: 0.0, variance: Some(v + w) })
    }

    /// Of two runs by their courses; each is the figure of the whole run and the standard error of its logarithm, with its freedom.
    pub fn of_courses(base: Course, new: Course) -> Self {
        let (v, w) = (base.error.powi(2), new.error.powi(2));
        let freedom = (v + w).powi(2) / (v.powi(2) / base.freedom + w.powi(2) / new.freedom);
        Self {
            change: new.log - base.log,
            error: (v + w).sqrt(),
            freedom: if freedom.is_finite() { freedom } else { base.freedom + new.freedom },
            resolution: 0.0,
            variance: None,
        }
    }

    /// The probability that chance alone makes a change so far beyond `threshold`, in either direction.
    pub fn p(&self, threshold: f64) -> f64 {
        let beyond = self.change.abs() - threshold - self.resolution;
        match (beyond > 0.0, self.error > 0.0) {
            (false, _) => 1.0,
            (true, false) => 0.0,
            (true, true) => two_sided(beyond / self.error, self.freedom),
        }
    }

    /// The interval that holds the change unless chance of probability `p` has it otherwise.
    pub fn interval(&self, p: f64) -> (f64, f64) {
        let half = critical(p, self.freedom) * self.error + self.resolution;
        (self.change - half, self.change + half)
    }

    /// Runs a side, or pairs, with which a change that is `excess` beyond the threshold is found at level `p` with a probability of 90 %.
    /// That allows for how little is known of the variance: over all that these runs might have said of it, it is planned for 93.3 %, so
    /// that of a thousand cases nine tenths hold even by bad luck. `None` above [`MOST_RUNS`], and where nothing is known of it.
    pub fn runs_for(&self, excess: f64, p: f64) -> Option<u32> {
        let (excess, variance) = (excess - self.resolution, self.variance?);
        let enough = |n: u32| {
            // That quantile of the noncentral t distribution, by Johnson and Welch.
            let (bar, square) = (critical(p, f64::from(n) - 1.0), QUANTILE * QUANTILE);
            let spread = (1.0 + (bar * bar - square) / (2.0 * self.freedom)).max(0.0).sqrt();
            // The denominator of the approximation fails a single degree of freedom, where a sixth comes to what is exact.
            let need = (bar + QUANTILE * spread) / (1.0 - square / (2.0 * self.freedom)).max(1.0 / 6.0);
            variance * (need / excess).powi(2) <= f64::from(n)
        };
        let (mut too_few, mut many) = (1, MOST_RUNS);
        if excess <= 0.0 || !enough(many) {
            return None;
        }
        while many - too_few > 1 {
            let middle = (too_few + many) / 2;
            if enough(middle) { many = middle } else { too_few = middle }
        }
        Some(many)
    }
}

/// What the course of one run says of a figure of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Course {
    /// The logarithm of the figure of the whole run.
    pub log: f64,
    /// Its standard error.
    pub error: f64,
    /// Degrees of freedom of that.
    pub freedom: f64,
}

impl Course {
    /// By batch means: neighbouring slices hang together, so they are joined to batches long enough not to. `slices` are the figures of
    /// the slices; `batch` is the figure of a range of them.
    ///
    /// # Errors
    /// Why it cannot be told.
    pub fn of(
        whole: f64,
        slices: &[f64],
        batch: impl Fn(std::ops::Range<usize>) -> Option<f64>,
    ) -> Result<Self, String> {
        let together = correlation_time(slices);
        let length = (BATCH * together).ceil() as usize;
        let batches = slices.len() / length.max(1);
        if batches < BATCHES {
            return Err(format!(
                "{} slices cannot tell: about {together:.0} neighbours hang together, so {} are needed",
                slices.len(),
                length * BATCHES
            ));
        }
        let length = slices.len() / batches;
        // Batches that begin at the end: what is left over is the start, which is the least steady.
        let first = slices.len() - batches * length;
        let figures: Option<Vec<f64>> =
            (0..batches).map(|at| batch(first + at * length..first + (at + 1) * length)).collect();
        let figures = figures.ok_or("a part of the run has too few I/Os")?;
        // What is left of the correlation makes batches look a little more alike than they are.
        let alike = 1.0 - together / (2.0 * length as f64);
        let variance = variance(&figures) / alike;
        let (error, freedom) = ((variance / batches as f64).sqrt() / mean(&figures), batches as f64 - 1.0);
        match whole > 0.0 && error.is_finite() {
            true => Ok(Self { log: whole.ln(), error, freedom }),
            false => Err("it is 0".into()),
        }
    }
}

/// How many neighbours hang together: the integrated autocorrelation, as long as sums of two neighbouring terms are positive and
/// do not grow (Geyer's initial monotone sequence). At least 1.
fn correlation_time(values: &[f64]) -> f64 {
    let (middle, n) = (mean(values), values.len());
    let covariance = |lag: usize| {
        (0..n.saturating_sub(lag)).map(|at| (values[at] - middle) * (values[at + lag] - middle)).sum::<f64>()
    };
    let whole = covariance(0);
    if whole <= 0.0 {
        return 1.0;
    }
    let (mut sum, mut least) = (-1.0, f64::MAX);
    // What hangs together for longer leaves too few batches anyhow.
    for pair in 0..n / 10 {
        let two = (covariance(2 * pair) + covariance(2 * pair + 1)) / whole;
        if two <= 0.0 {
            break;
        }
        least = least.min(two);
        sum += 2.0 * least;
    }
    sum.max(1.0)
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

fn variance(values: &[f64]) -> f64 {
    let middle = mean(values);
    values.iter().map(|value| (value - middle).powi(2)).sum::<f64>() / (values.len() as f64 - 1.0)
}
