//! Plots as SVG that takes its colours from the page around it.

use std::fmt::Write as _;

use super::number;

/// A latency curve of one arm.
pub struct Curve {
    /// The arm.
    pub name: &'static str,
    /// Percentile and µs.
    pub points: Vec<(f64, f64)>,
}

/// A bar of one arm.
pub struct Bar {
    /// The arm.
    pub name: &'static str,
    /// Its length.
    pub value: f64,
    /// Least and greatest of the rounds.
    pub range: (f64, f64),
}

const WIDTH: f64 = 760.0;
const CURVES_HEIGHT: f64 = 360.0;
const LEFT: f64 = 72.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 40.0;
const BOTTOM: f64 = 44.0;
/// Percentiles with a line of their own.
const TICKS: [(f64, &str); 6] =
    [(0.0, "0"), (50.0, "50"), (90.0, "90"), (99.0, "99"), (99.9, "99.9"), (99.99, "99.99")];
/// Beyond it single messages decide.
const PERCENTILE_MAX: f64 = 99.99;
const BAR_HEIGHT: f64 = 22.0;
const BAR_STEP: f64 = 32.0;
const BAR_LEFT: f64 = 130.0;
const BAR_RIGHT: f64 = 90.0;

/// Text for XML and HTML.
pub fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            other => escaped.push(other),
        }
    }
    escaped
}

/// The class that gives an arm its colour: its peer's, and "variant" for those with a tweak.
fn class(name: &str) -> String {
    let peer = ["direct", "corelane", "haproxy", "nginx"].into_iter().find(|p| name.starts_with(p));
    match peer {
        Some(peer) if peer == name => peer.to_string(),
        Some(peer) => format!("{peer} variant"),
        None => "corelane".into(),
    }
}

fn open(height: f64, title: &str) -> String {
    let title = escape(title);
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{title}\">\n\
         <title>{title}</title>\n"
    )
}

/// Where a percentile is drawn, 0 to 4: each nine takes the same room.
fn nines(percentile: f64) -> f64 {
    -(1.0 - percentile.min(PERCENTILE_MAX) / 100.0).log10()
}

/// Latency over percentiles, both logarithmic. `None` without anything to draw.
pub fn curves(title: &str, curves: &[Curve]) -> Option<String> {
    let drawn = |curve: &Curve| -> Vec<(f64, f64)> {
        let points = curve.points.iter().copied();
        points.filter(|(p, us)| (0.0..=PERCENTILE_MAX).contains(p) && *us > 0.0).collect()
    };
    let all: Vec<(f64, f64)> = curves.iter().flat_map(drawn).collect();
    let least = all.iter().map(|point| point.1).reduce(f64::min)?;
    let greatest = all.iter().map(|point| point.1).reduce(f64::max)?;
    let (low, high) = (least.log10().floor(), greatest.log10().ceil().max(least.log10() + 0.1));
    let right_most = nines(all.iter().map(|point| point.0).fold(90.0, f64::max));
    let x = |percentile| LEFT + nines(percentile) / right_most * (WIDTH - LEFT - RIGHT);
    let bottom = CURVES_HEIGHT - BOTTOM;
    let y = |us: f64| bottom - (us.log10() - low) / (high - low) * (bottom - TOP);

    let mut svg = open(CURVES_HEIGHT, title);
    for (percentile, label) in TICKS.iter().filter(|tick| nines(tick.0) <= right_most + 1e-9) {
        let x = x(*percentile);
        let label_y = bottom + 18.0;
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{x:.1}\" y1=\"{TOP}\" x2=\"{x:.1}\" y2=\"{bottom}\"/>\
             <text x=\"{x:.1}\" y=\"{label_y}\" text-anchor=\"middle\">{label}</text>"
        );
    }
    for us in decades(low, high) {
        let (y, end) = (y(us), WIDTH - RIGHT);
        let (label, label_x, label_y) = (number_of_tick(us), LEFT - 8.0, y + 4.0);
        let _ = writeln!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" y1=\"{y:.1}\" x2=\"{end}\" y2=\"{y:.1}\"/>\
             <text x=\"{label_x}\" y=\"{label_y:.1}\" text-anchor=\"end\">{label}</text>"
        );
    }
    let (middle, axis_y) = ((LEFT + WIDTH - RIGHT) / 2.0, CURVES_HEIGHT - 6.0);
    let _ = writeln!(
        svg,
        "<text x=\"{middle}\" y=\"{axis_y}\" text-anchor=\"middle\">percentile</text>\
         <text x=\"4\" y=\"{TOP}\" dy=\"-8\">µs</text>"
    );
    for (place, curve) in curves.iter().enumerate() {
        let points: Vec<String> =
            drawn(curve).iter().map(|(p, us)| format!("{:.1},{:.1}", x(*p), y(*us))).collect();
        let class = class(curve.name);
        let _ = writeln!(svg, "<polyline class=\"{class}\" points=\"{}\"/>", points.join(" "));
        svg += &legend(curve.name, place);
    }
    svg += "</svg>\n";
    Some(svg)
}

fn legend(name: &str, place: usize) -> String {
    let x = LEFT + 130.0 * place as f64;
    let (end, text) = (x + 22.0, x + 28.0);
    format!(
        "<polyline class=\"{}\" points=\"{x},14 {end},14\"/><text x=\"{text}\" y=\"18\">{}</text>\n",
        class(name),
        escape(name)
    )
}

/// 1, 2 and 5 of each decade, or powers of ten where they are many.
fn decades(low: f64, high: f64) -> Vec<f64> {
    let steps: &[f64] = if high - low <= 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let mut ticks = Vec::new();
    let mut exponent = low;
    while exponent <= high {
        ticks.extend(steps.iter().map(|step| step * 10f64.powf(exponent)));
        exponent += 1.0;
    }
    ticks.retain(|tick| tick.log10() <= high + 1e-9);
    ticks
}

fn number_of_tick(us: f64) -> String {
    if us >= 1.0 {
        number(us).trim_end_matches(".00").trim_end_matches(".0").into()
    } else {
        format!("{us}")
    }
}

/// Horizontal bars from zero, with the range of the rounds. `None` without bars.
pub fn bars(title: &str, bars: &[Bar]) -> Option<String> {
    let greatest = bars.iter().map(|bar| bar.range.1.max(bar.value)).reduce(f64::max)?;
    let scale = (WIDTH - BAR_LEFT - BAR_RIGHT) / greatest.max(f64::MIN_POSITIVE);
    let mut svg = open(bars.len() as f64 * BAR_STEP + 8.0, title);
    for (place, bar) in bars.iter().enumerate() {
        let y = place as f64 * BAR_STEP + 4.0;
        let middle = y + BAR_HEIGHT / 2.0;
        let length = (bar.value * scale).max(0.0);
        let (from, to) = (bar.range.0.max(0.0) * scale, bar.range.1.max(0.0) * scale);
        let (name_x, value_x) = (BAR_LEFT - 8.0, BAR_LEFT + length.max(to) + 8.0);
        let (from, to) = (BAR_LEFT + from, BAR_LEFT + to);
        let baseline = middle + 4.0;
        let _ = writeln!(
            svg,
            "<text x=\"{name_x}\" y=\"{baseline}\" text-anchor=\"end\">{name}</text>\
             <rect class=\"{class}\" x=\"{BAR_LEFT}\" y=\"{y}\" width=\"{length:.1}\" \
             height=\"{BAR_HEIGHT}\"/>\
             <line class=\"range\" x1=\"{from:.1}\" y1=\"{middle}\" x2=\"{to:.1}\" y2=\"{middle}\"/>\
             <text x=\"{value_x:.1}\" y=\"{baseline}\">{value}</text>",
            name = escape(bar.name),
            class = class(bar.name),
            value = number(bar.value),
        );
    }
    svg += "</svg>\n";
    Some(svg)
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Panics where tags do not nest, an attribute is not quoted, or text is not escaped. Elements
    /// without an end are those of HTML.
    pub fn assert_well_formed(text: &str) {
        let text = text.strip_prefix("<!DOCTYPE html>").unwrap_or(text);
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some(start) = rest.find('<') {
            assert_references(&rest[..start]);
            let end = start + rest[start..].find('>').expect("a tag ends");
            let tag = &rest[start + 1..end];
            rest = &rest[end + 1..];
            if let Some(name) = tag.strip_prefix('/') {
                assert_eq!(open.pop(), Some(name), "before {rest:.100}");
                continue;
            }
            let name = tag.split([' ', '/']).next().unwrap();
            assert!(name.chars().all(|c| c.is_ascii_alphanumeric()) && !name.is_empty(), "{tag}");
            assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
            assert_eq!(tag.matches("=\"").count() * 2, tag.matches('"').count(), "{tag}");
            if !tag.ends_with('/') && !["meta", "br", "hr"].contains(&name) {
                open.push(name);
            }
        }
        assert!(open.is_empty(), "{open:?} without an end");
    }

    fn assert_references(text: &str) {
        assert!(!text.contains('>'), "{text}");
        for reference in text.split('&').skip(1) {
            let known = ["amp;", "lt;", "gt;", "quot;"];
            assert!(known.iter().any(|name| reference.starts_with(name)), "&{reference}");
        }
    }

    fn curve(name: &'static str, factor: f64) -> Curve {
        let points = (0..=60).map(|step| {
            let percentile = 100.0 * (1.0 - 10f64.powf(-f64::from(step) / 15.0));
            (percentile, factor * (1.0 + f64::from(step)))
        });
        Curve { name, points: points.chain([(100.0, 1e6)]).collect() }
    }

    #[test]
    fn curves_are_well_formed_and_inside() {
        let svg = curves("a & b", &[curve("direct", 20.0), curve("corelane-spin", 90.0)]).unwrap();
        assert_well_formed(&svg);
        assert!(svg.contains("class=\"corelane variant\"") && svg.contains("a &amp; b"));
        let points = svg.split("points=\"").skip(1).filter_map(|rest| rest.split('"').next());
        let mut seen = 0;
        for point in points.flat_map(|list| list.split(' ')) {
            let (x, y) = point.split_once(',').unwrap();
            let (x, y): (f64, f64) = (x.parse().unwrap(), y.parse().unwrap());
            assert!((0.0..=WIDTH).contains(&x) && (0.0..=CURVES_HEIGHT).contains(&y), "{point}");
            seen += 1;
        }
        assert!(seen > 120, "{seen}");
        assert!(curves("nothing", &[]).is_none());
        assert!(
            curves("one value", &[Curve { name: "nginx", points: vec![(50.0, 10.0)] }]).is_some()
        );
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |name, value| Bar { name, value, range: (value, value) };
        let svg =
            bars("t", &[bar("corelane", 50.0), bar("haproxy", 100.0), bar("nginx", 0.0)]).unwrap();
        assert_well_formed(&svg);
        let widths: Vec<f64> = svg
            .split("width=\"")
            .skip(1)
            .filter_map(|rest| rest.split('"').next()?.parse().ok())
            .collect();
        assert!((widths[0] * 2.0 - widths[1]).abs() < 0.2 && widths[2] == 0.0, "{widths:?}");
        assert!(bars("t", &[]).is_none());
    }

    #[test]
    fn ticks() {
        assert_eq!(decades(1.0, 2.0), [10.0, 20.0, 50.0, 100.0]);
        assert_eq!(decades(0.0, 3.0), [1.0, 10.0, 100.0, 1_000.0]);
        assert_eq!(number_of_tick(1_000.0), "1,000");
        assert_eq!(number_of_tick(5.0), "5");
    }
}
