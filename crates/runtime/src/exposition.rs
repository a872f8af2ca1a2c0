//! The text format of metrics (Prometheus 0.0.4).
//!
//! *Owns* how families, labels and numbers are written. *Never* knows what they mean. *Invariant*: a family
//! has one head and its samples together.

use std::fmt::{Display, Write as _};

use crate::histogram::{BOUNDS_MILLIS, Histogram};

/// The content type of what it makes.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page of metrics in the making.
#[derive(Debug, Default)]
pub struct Exposition {
    text: String,
}

/// A metric with all its samples, open to be added to.
#[derive(Debug)]
pub struct Family<'a> {
    text: &'a mut String,
    name: &'a str,
}

impl Exposition {
    /// A gauge's head; `name` is the whole name.
    pub fn gauge<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "gauge", help)
    }

    /// A counter's head; `name` is the whole name, with `_total`.
    pub fn counter<'a>(&'a mut self, name: &'a str, help: &str) -> Family<'a> {
        self.family(name, "counter", help)
    }

    /// A whole histogram of durations, in seconds.
    pub fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let mut count = 0;
        for (index, bucket) in histogram.buckets().into_iter().enumerate() {
            count += bucket;
            let bound = match BOUNDS_MILLIS.get(index) {
                Some(millis) => (*millis as f64 / 1_000.0).to_string(),
                None => "+Inf".to_owned(),
            };
            sample(&mut self.text, &format!("{name}_bucket"), &[("le", &bound)], count);
        }
        sample(&mut self.text, &format!("{name}_sum"), &[], histogram.sum().as_secs_f64());
        sample(&mut self.text, &format!("{name}_count"), &[], count);
    }

    /// The page.
    pub fn finish(self) -> String {
        self.text
    }

    fn family<'a>(&'a mut self, name: &'a str, kind: &str, help: &str) -> Family<'a> {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Family { text: &mut self.text, name }
    }
}

impl Family<'_> {
    /// A sample without labels.
    pub fn value(&mut self, value: impl Display) {
        sample(self.text, self.name, &[], value);
    }

    /// A sample with labels.
    pub fn labelled(&mut self, labels: &[(&str, &str)], value: impl Display) {
        sample(self.text, self.name, labels, value);
    }
}

fn sample(text: &mut String, name: &str, labels: &[(&str, &str)], value: impl Display) {
    text.push_str(name);
    for (index, (label, content)) in labels.iter().enumerate() {
        text.push(if index == 0 { '{' } else { ',' });
        let content = content.replace('\\', r"\\").replace('"', r#"\""#).replace('\n', r"\n");
        let _ = write!(text, "{label}=\"{content}\"");
    }
    if !labels.is_empty() {
        text.push('}');
    }
    let _ = writeln!(text, " {value}");
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn families_samples_and_histograms_are_written_as_the_format_says() {
        let mut page = Exposition::default();
        let mut family = page.gauge("proxy_things", "Things.");
        family.value(3);
        family.labelled(&[("kind", "a\"b\\c\nd"), ("more", "")], 0.5);
        let histogram = Histogram::default();
        for millis in [1, 2, 90_000_000] {
            histogram.observe(Duration::from_millis(millis));
        }
        page.histogram("proxy_wait_seconds", "Waits.", &histogram);
        let text = page.finish();
        assert!(text.starts_with("# HELP proxy_things Things.\n# TYPE proxy_things gauge\nproxy_things 3\n"));
        assert!(text.contains("proxy_things{kind=\"a\\\"b\\\\c\\nd\",more=\"\"} 0.5\n"));
        assert!(text.contains("proxy_wait_seconds_bucket{le=\"0.001\"} 1\n"));
        assert!(text.contains("proxy_wait_seconds_bucket{le=\"86400\"} 2\n"));
        assert!(text.ends_with(
            "_bucket{le=\"+Inf\"} 3\nproxy_wait_seconds_sum 90000.003\nproxy_wait_seconds_count 3\n"
        ));
    }
}
