//! The latencies as an HdrHistogram log (format version 1.3, histograms V2 compressed): a line for each slice of the time series, or one
//! a kind of operation for the whole window. Values are nanoseconds, times seconds from the start, the maximum of a line milliseconds.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use doorbell_result::{Distribution, Document};
use hdrhistogram::{
    Histogram,
    serialization::{
        V2DeflateSerializer,
        interval_log::{IntervalLogWriterBuilder, Tag},
    },
};

/// Significant digits: the buckets are finer than those of a result, so that no more is lost.
const DIGITS: u8 = 3;

/// The log; a heading alone where nothing was measured.
pub fn text(document: &Document) -> String {
    let mut bytes = Vec::new();
    let mut serializer = V2DeflateSerializer::new();
    let start: SystemTime = UNIX_EPOCH + Duration::try_from_secs_f64(document.started_s).unwrap_or_default();
    let mut builder = IntervalLogWriterBuilder::new();
    let comment = format!("{} {}, latencies in nanoseconds", document.tool.name, document.tool.version);
    builder
        .add_comment("[Histogram log format version 1.3]")
        .add_comment(&comment)
        .with_start_time(start)
        .with_base_time(start)
        .with_max_value_divisor(1e6);
    // Writing to memory cannot fail, and no histogram is too large for it: the largest has some hundred thousand buckets.
    let log = builder.begin_log_with(&mut bytes, &mut serializer);
    if let Ok(mut log) = log {
        let mut line = |distribution: &Distribution, begin: f64, end: f64, tag: Option<&str>| {
            let span = |seconds: f64| Duration::try_from_secs_f64(seconds).unwrap_or_default();
            let _ =
                log.write_histogram(&histogram(distribution), span(begin), span(end - begin), tag.and_then(Tag::new));
        };
        match &document.series {
            Some(series) => {
                for slice in &series.slices {
                    slice.distribution.iter().for_each(|one| line(one, slice.begin_s, slice.end_s, None));
                }
            }
            None => {
                for (operation, sum) in &document.results.operations {
                    let latency = sum.latency.iter();
                    latency.for_each(|one| line(&one.distribution, 0.0, sum.seconds, Some(operation.as_str())));
                }
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The same samples in nanoseconds, each in the middle of its bucket.
fn histogram(distribution: &Distribution) -> Histogram<u64> {
    let mut histogram = Histogram::new(DIGITS).expect("three digits can be had");
    for (middle, count) in distribution.middles() {
        let nanoseconds = (distribution.us(middle) * 1000.0).round() as u64;
        // It grows with its values; what it may refuse is one above 2^63.
        let _ = histogram.record_n(nanoseconds, count);
    }
    histogram
}

#[cfg(test)]
mod tests {
    use super::*;
    use doorbell_result::{
        Latency, LatencyStats, Measurement,
        document::{Series, Slice},
    };
    use hdrhistogram::serialization::{
        Deserializer,
        interval_log::{IntervalLogIterator, LogEntry},
    };

    fn distribution(values: std::ops::Range<u64>) -> Distribution {
        let mut stats = LatencyStats::default();
        values.for_each(|value| stats.record(value * 1000));
        Distribution::new(&stats, 2e9)
    }

    /// Tag, start, length, and histogram of each line.
    fn read(text: &str) -> Vec<(Option<String>, f64, f64, Histogram<u64>)> {
        let entries = IntervalLogIterator::new(text.as_bytes()).map(|entry| entry.unwrap());
        let lines = entries.filter_map(|entry| match entry {
            LogEntry::Interval(line) => Some(line),
            _ => None,
        });
        lines
            .map(|line| {
                let packed = base64_of(line.encoded_histogram());
                let histogram = Deserializer::new().deserialize(&mut packed.as_slice()).unwrap();
                let tag = line.tag().map(|tag| tag.as_str().to_owned());
                (tag, line.start_timestamp().as_secs_f64(), line.duration().as_secs_f64(), histogram)
            })
            .collect()
    }

    fn base64_of(text: &str) -> Vec<u8> {
        let value = |byte: u8| match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            _ => 63,
        };
        let digits: Vec<u8> = text.bytes().filter(|&byte| byte != b'=').collect();
        let bytes = digits.chunks(4).flat_map(|four| {
            let word = four
                .iter()
                .enumerate()
                .fold(0u32, |word, (at, &digit)| word | u32::from(value(digit)) << (18 - 6 * at));
            word.to_be_bytes()[1..four.len()].to_vec()
        });
        bytes.collect()
    }

    #[test]
    fn other_readers_find_the_same_latencies() {
        let mut document = Document { started_s: 1_700_000_000.5, ..Document::default() };
        let latency = Latency::of(distribution(100..1100));
        let sum = Measurement { seconds: 2.5, latency, ..Measurement::default() };
        document.results.operations.insert("read".into(), sum);
        let lines = read(&text(&document));
        let (tag, start, length, histogram) = &lines[0];
        assert_eq!((lines.len(), tag.as_deref(), *start, *length), (1, Some("read"), 0.0, 2.5));
        assert_eq!(histogram.len(), 1000);
        let median = histogram.value_at_quantile(0.5) as f64;
        assert!((median / 300_000.0 - 1.0).abs() < 1.0 / 128.0, "{median}");

        let slice = |slice: u64| Slice {
            begin_s: slice as f64,
            end_s: slice as f64 + 1.0,
            distribution: Some(distribution(1..1 + slice)),
            ..Slice::default()
        };
        document.series = Some(Series { interval_s: 1.0, slices: (0..3).map(slice).collect() });
        let lines = read(&text(&document));
        let counts: Vec<_> = lines.iter().map(|line| (line.0.clone(), line.1, line.3.len())).collect();
        assert_eq!(counts, [(None, 0.0, 0), (None, 1.0, 1), (None, 2.0, 2)]);
        assert_eq!(read(&text(&Document::default())).len(), 0);
    }
}
