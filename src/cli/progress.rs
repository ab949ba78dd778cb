//! Bars on a terminal, plain lines in a pipe, events as JSON.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::Mutex;

use cstor_rs::ids::Digest;
use cstor_rs::pull::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

/// How progress is shown.
pub(super) struct Shown {
    style: Style,
    bars: MultiProgress,
    layers: Mutex<HashMap<Digest, ProgressBar>>,
}

#[derive(PartialEq)]
enum Style {
    Quiet,
    Lines,
    Bars,
    Json,
}

impl Shown {
    pub(super) fn new(quiet: bool, json: bool) -> Self {
        let style = match () {
            () if quiet => Style::Quiet,
            () if json => Style::Json,
            () if std::io::stderr().is_terminal() => Style::Bars,
            () => Style::Lines,
        };
        Self { style, bars: MultiProgress::new(), layers: Mutex::default() }
    }

    /// Takes the bars away before results are printed.
    pub(super) fn clear(&self) {
        let mut layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (_, bar) in layers.drain() {
            bar.finish_and_clear();
        }
    }

    fn bar(&self, blob: &Digest, f: impl FnOnce(&ProgressBar)) {
        let layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(bar) = layers.get(blob) {
            f(bar);
        }
    }

    fn bars(&self, event: Event<'_>) {
        match event {
            Event::Started { blob, bytes } => {
                let bar = self.bars.add(ProgressBar::new(bytes));
                let text = "{prefix} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
                if let Ok(style) = ProgressStyle::with_template(text) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.set_prefix(short(blob).to_owned());
                let mut layers = self.layers.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                layers.insert(blob.clone(), bar);
            }
            Event::Progress { blob, bytes } => self.bar(blob, |bar| bar.set_position(bytes)),
            Event::Finished { blob } => self.bar(blob, ProgressBar::finish),
            _ => {}
        }
    }
}

fn short(digest: &Digest) -> &str {
    digest.hex().get(..12).unwrap_or_default()
}

fn line(event: Event<'_>) {
    match event {
        Event::Resolved { name, layers } => eprintln!("{name}: {layers} layers"),
        Event::Present { blob } => eprintln!("layer {} present", short(blob)),
        Event::Started { blob, bytes } => eprintln!("layer {} fetching {bytes} bytes", short(blob)),
        Event::Finished { blob } => eprintln!("layer {} staged", short(blob)),
        Event::Committing => eprintln!("syncing and committing"),
        _ => {}
    }
}

fn object(event: Event<'_>) {
    let value = match event {
        Event::Resolved { name, layers } => json!({"event": "resolved", "name": name, "layers": layers}),
        Event::Present { blob } => json!({"event": "present", "blob": blob}),
        Event::Started { blob, bytes } => json!({"event": "started", "blob": blob, "bytes": bytes}),
        Event::Finished { blob } => json!({"event": "finished", "blob": blob}),
        Event::Committing => json!({"event": "committing"}),
        // One line for every few kilobytes would drown the others.
        _ => return,
    };
    eprintln!("{value}");
}

impl Progress for Shown {
    fn event(&self, event: Event<'_>) {
        match self.style {
            Style::Quiet => {}
            Style::Lines => line(event),
            Style::Bars => self.bars(event),
            Style::Json => object(event),
        }
    }
}
