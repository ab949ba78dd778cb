//! A plot as SVG: panels beside each other, each with the same lines, of percentages.

use std::fmt::Write as _;

pub struct Line {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

pub struct Panel {
    pub name: String,
    pub lines: Vec<Line>,
}

/// Colours that can be told apart without seeing red and green, the first for ours.
const COLOURS: &[&str] = &["#0072b2", "#e69f00", "#d55e00", "#cc79a7", "#009e73", "#666666", "#56b4e9"];
const DASHES: &[&str] = &["", "6 3", "2 3", "8 3 2 3", "", "4 4", "1 2"];

const WIDTH: f64 = 300.0;
const HEIGHT: f64 = 200.0;
const LEFT: f64 = 56.0;
const TOP: f64 = 64.0;
const GAP: f64 = 28.0;

/// Draws it; `end` is where the horizontal axis ends.
pub fn plot(title: &str, axis: &str, end: f64, panels: &[Panel]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for line in panels.iter().flat_map(|panel| &panel.lines) {
        if !names.contains(&line.name.as_str()) {
            names.push(&line.name);
        }
    }
    let width = LEFT + panels.len() as f64 * (WIDTH + GAP);
    let height = TOP + HEIGHT + 58.0 + 20.0 * (names.len() as f64 / 3.0).ceil();
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.0} {height:.0}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <title>{title}</title>\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\" fill=\"#222222\">{title}</text>\n"
    );
    for (index, panel) in panels.iter().enumerate() {
        let left = LEFT + index as f64 * (WIDTH + GAP);
        draw(&mut svg, panel, left, end, index == 0, &names);
    }
    let middle = LEFT + (width - LEFT - GAP) / 2.0;
    writeln!(svg, "<text x=\"{middle:.0}\" y=\"{:.0}\" text-anchor=\"middle\" fill=\"#222222\">{axis}</text>", TOP + HEIGHT + 38.0)
        .unwrap();
    for (index, name) in names.iter().enumerate() {
        let (x, y) = (LEFT + (index % 3) as f64 * (WIDTH + GAP), TOP + HEIGHT + 62.0 + 20.0 * (index / 3) as f64);
        let stroke = stroke(index);
        writeln!(
            svg,
            "<line x1=\"{x:.0}\" y1=\"{0:.0}\" x2=\"{1:.0}\" y2=\"{0:.0}\" {stroke}/><text x=\"{2:.0}\" y=\"{y:.0}\" fill=\"#222222\">{name}</text>",
            y - 4.0,
            x + 34.0,
            x + 42.0
        )
        .unwrap();
    }
    svg.push_str("</svg>\n");
    svg
}

fn stroke(index: usize) -> String {
    let (colour, dash) = (COLOURS[index % COLOURS.len()], DASHES[index % DASHES.len()]);
    let width = if index == 0 { 4.0 } else { 2.0 };
    format!("stroke=\"{colour}\" stroke-width=\"{width}\" stroke-dasharray=\"{dash}\" fill=\"none\"")
}

fn draw(svg: &mut String, panel: &Panel, left: f64, end: f64, labelled: bool, names: &[&str]) {
    let x = |value: f64| left + WIDTH * value / end;
    let y = |value: f64| TOP + HEIGHT * (1.0 - value / 100.0);
    writeln!(svg, "<text x=\"{left:.0}\" y=\"{:.0}\" font-weight=\"bold\" fill=\"#222222\">{}</text>", TOP - 12.0, panel.name).unwrap();
    for percent in [0.0, 25.0, 50.0, 75.0, 100.0] {
        let at = y(percent);
        writeln!(svg, "<line x1=\"{left:.0}\" y1=\"{at:.1}\" x2=\"{:.0}\" y2=\"{at:.1}\" stroke=\"#dddddd\"/>", left + WIDTH).unwrap();
        if labelled {
            let (x, y) = (left - 8.0, at + 4.0);
            writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.1}\" text-anchor=\"end\" fill=\"#555555\">{percent:.0} %</text>").unwrap();
        }
    }
    for tick in 0..=4 {
        let value = end * f64::from(tick) / 4.0;
        let (x, y) = (x(value), TOP + HEIGHT + 18.0);
        writeln!(svg, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"middle\" fill=\"#555555\">{value:.0}</text>").unwrap();
    }
    // Ours last, above the others.
    for (index, name) in names.iter().enumerate().rev() {
        let Some(line) = panel.lines.iter().find(|line| line.name == *name) else { continue };
        let points: Vec<String> = line.points.iter().map(|(at, percent)| format!("{:.1},{:.1}", x(*at), y(*percent))).collect();
        writeln!(svg, "<polyline points=\"{}\" {}/>", points.join(" "), stroke(index)).unwrap();
    }
}
