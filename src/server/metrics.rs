//! Pure: no system call, no thread, no clock.
//!
//! The Prometheus text format 0.0.4: families of samples, each with its HELP and TYPE.

use std::fmt::Write;

/// The `Content-Type` of the text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The kind of a family's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// They rise and fall.
    Gauge,
    /// They only rise.
    Counter,
}

/// Samples of one name. Values that are not known are left out.
#[derive(Debug)]
pub struct Family {
    text: String,
    name: &'static str,
}

impl Family {
    /// A family without samples.
    pub fn new(name: &'static str, kind: Kind, help: &str) -> Self {
        let kind = match kind {
            Kind::Gauge => "gauge",
            Kind::Counter => "counter",
        };
        Self {
            text: format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
            name,
        }
    }

    /// Adds a sample.
    pub fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        if !value.is_finite() {
            return;
        }
        self.text.push_str(self.name);
        for (i, (label, content)) in labels.iter().enumerate() {
            self.text.push(if i == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            for c in content.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        // Writing into a String can't fail.
        let _ = writeln!(self.text, " {value}");
    }

    /// Its lines.
    pub fn text(&self) -> &str {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_escaped_and_unknown_ones_absent() {
        let mut family = Family::new("x_total", Kind::Counter, "Xs.");
        family.add(&[], 1.5);
        family.add(&[("a", "\\ \"\n"), ("b", "ä")], 12_345_678_901.0);
        family.add(&[("a", "")], f64::NAN);
        let text = "# HELP x_total Xs.\n# TYPE x_total counter\nx_total 1.5\n\
                    x_total{a=\"\\\\ \\\"\\n\",b=\"ä\"} 12345678901\n";
        assert_eq!(family.text(), text);
    }
}
