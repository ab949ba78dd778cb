//! What the campaign found, as tables for docs/crash-testing.md and as a plot.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use serde_json::Value;

use super::baseline::TAIL;
use super::campaign::lines;
use super::filesystem;
use super::plot::{Line, Panel, plot};

/// `report --results FILE [--docs DIRECTORY]`: prints the tables, or writes them and the plot there.
pub fn main(args: &[String]) -> ExitCode {
    let option = |name: &str| args.iter().position(|arg| arg == name).and_then(|at| args.get(at + 1)).cloned();
    let Some(results) = option("--results") else {
        eprintln!("report --results FILE [--docs DIRECTORY]");
        return ExitCode::from(2);
    };
    let results = Results::read(Path::new(&results));
    let tables = format!("{}\n{}", results.ours(), results.compared());
    match option("--docs") {
        None => println!("{tables}"),
        Some(docs) => {
            let (text, picture) = (Path::new(&docs).join("crash-testing.md"), Path::new(&docs).join("crash-testing.svg"));
            let old = std::fs::read_to_string(&text).unwrap();
            let (before, rest) = old.split_once(BEGIN).expect("the document has no place for the figures");
            let (_, after) = rest.split_once(END).expect("the document has no place for the figures");
            std::fs::write(&text, format!("{before}{BEGIN}\n\n{tables}\n{END}{after}")).unwrap();
            std::fs::write(&picture, results.picture()).unwrap();
        }
    }
    ExitCode::SUCCESS
}

const BEGIN: &str = "<!-- figures -->";
const END: &str = "<!-- end of figures -->";

/// Of one pull that a program did: seconds behind its exit, and what became of the image.
type Drawn = Vec<(f64, String)>;

struct Results {
    lines: Vec<Value>,
    /// What the other tiers wrote, in words.
    words: Vec<String>,
}

impl Results {
    fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let words = text.lines().filter(|line| !line.starts_with('{')).map(str::to_owned).collect();
        Self { lines: lines(path), words }
    }

    /// The sum of one number over the lines of a kind and file system.
    fn sum(&self, kind: &str, fs: &str, key: &str) -> u64 {
        self.lines.iter().filter(|line| line["kind"] == kind && line["fs"] == fs).filter_map(|line| line[key].as_u64()).sum()
    }

    fn failures(&self, kind: &str, fs: &str) -> usize {
        self.lines.iter().filter(|line| line["kind"] == "failure" && line["of"] == kind && line["fs"] == fs).count()
    }

    fn ours(&self) -> String {
        let mut text = String::from(
            "| power cuts over cstor-rs | different states | in the middle of an operation | with a transaction to recover | \
             second cuts, in recovery | not mountable | failures |\n|---|---|---|---|---|---|---|\n",
        );
        for fs in filesystem::ALL {
            let sum = |key| self.sum("states", fs.name, key);
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} |",
                fs.name,
                sum("states"),
                sum("within"),
                sum("recovered"),
                sum("second"),
                sum("unmountable"),
                self.failures("states", fs.name)
            )
            .unwrap();
        }
        text.push_str(
            "\n| errors of the disk, podman in between | operations that met an error | said that they failed | said that they are done | \
             not mountable | acts of podman | killed | with a transaction to recover | failures |\n|---|---|---|---|---|---|---|---|---|\n",
        );
        for fs in filesystem::ALL {
            let (met, acted) = (|key| self.sum("faults", fs.name, key), |key| self.sum("acts", fs.name, key));
            let failures = self.failures("faults", fs.name) + self.failures("acts", fs.name);
            writeln!(
                text,
                "| {} | {} | {} | {} | {} | {} | {} | {} | {failures} |",
                fs.name,
                met("states"),
                met("refused"),
                met("done"),
                met("unmountable"),
                acted("states"),
                acted("killed"),
                acted("waiting")
            )
            .unwrap();
        }
        for (name, what) in [("syscalls: ", "SIGKILL before every system call"), ("soak: ", "the soak")] {
            let of: Vec<&str> = self.words.iter().filter_map(|line| line.strip_prefix(name)).collect();
            if !of.is_empty() {
                writeln!(text, "\n{what}:\n\n```\n{}\n```", of.join("\n")).unwrap();
            }
        }
        text
    }

    /// Program, file system: what was drawn.
    fn drawn(&self) -> Vec<(String, BTreeMap<String, Drawn>)> {
        let mut programs: Vec<(String, BTreeMap<String, Drawn>)> = Vec::new();
        for line in self.lines.iter().filter(|line| line["kind"] == "baseline") {
            let name = line["program"].as_str().unwrap_or_default();
            let drawn = line["drawn"].as_array().into_iter().flatten();
            let drawn = drawn.map(|one| (one[0].as_f64().unwrap_or_default(), one[1].as_str().unwrap_or_default().to_owned())).collect();
            let at = programs.iter().position(|(known, _)| known == name).unwrap_or_else(|| {
                programs.push((name.to_owned(), BTreeMap::new()));
                programs.len() - 1
            });
            programs[at].1.insert(line["fs"].as_str().unwrap_or_default().to_owned(), drawn);
        }
        programs.sort_by_key(|(name, _)| (name != "cstor-rs", name.clone()));
        programs
    }

    fn compared(&self) -> String {
        let mut text = String::from(
            "| one pull, the exit, then the power goes | file system | states | image lost | listed and broken | store unreadable | not \
             mountable | last bad second | in mid-pull: states | listed and broken |\n|---|---|---|---|---|---|---|---|---|---|\n",
        );
        for (program, by_fs) in self.drawn() {
            for fs in filesystem::ALL {
                let Some(drawn) = by_fs.get(fs.name) else { continue };
                let (after, within): (Drawn, Drawn) = drawn.iter().cloned().partition(|(seconds, _)| *seconds >= 0.0);
                let count = |of: &Drawn, word: &str| of.iter().filter(|(_, outcome)| outcome == word).count();
                let last = after
                    .iter()
                    .filter(|(_, outcome)| outcome != "whole")
                    .map(|(seconds, _)| *seconds)
                    .fold(None, |max: Option<f64>, s| Some(max.map_or(s, |max| max.max(s))));
                let last = last.map_or_else(|| "-".to_owned(), |seconds| format!("{seconds:.1}"));
                writeln!(
                    text,
                    "| {program} | {} | {} | {} | {} | {} | {} | {last} | {} | {} |",
                    fs.name,
                    after.len(),
                    count(&after, "lost"),
                    count(&after, "broken"),
                    count(&after, "unreadable"),
                    count(&after, "unmountable"),
                    within.len(),
                    count(&within, "broken") + count(&within, "unreadable"),
                )
                .unwrap();
            }
        }
        text
    }

    /// The share of bad states, by how long after the exit the power goes.
    fn picture(&self) -> String {
        let (bins, width) = (8, TAIL.as_secs_f64() / 8.0);
        let programs = self.drawn();
        let panels = filesystem::ALL.iter().map(|fs| {
            let lines = programs.iter().filter_map(|(program, by_fs)| {
                let drawn = by_fs.get(fs.name)?;
                let points = (0..bins).map(|bin| {
                    let (from, to) = (f64::from(bin) * width, f64::from(bin + 1) * width);
                    let here: Vec<&String> = drawn.iter().filter(|(s, _)| *s >= from && *s < to).map(|(_, outcome)| outcome).collect();
                    let bad = here.iter().filter(|outcome| outcome.as_str() != "whole").count();
                    ((from + to) / 2.0, 100.0 * bad as f64 / here.len().max(1) as f64)
                });
                Some(Line { name: program.clone(), points: points.collect() })
            });
            Panel { name: fs.name.to_owned(), lines: lines.collect() }
        });
        plot(
            "Power cuts after a pull has exited 0: share of states in which the image is lost or broken",
            "seconds between the exit and the power cut",
            TAIL.as_secs_f64(),
            &panels.collect::<Vec<_>>(),
        )
    }
}
