//! Bars on a terminal, plain lines in a pipe, events as JSON.

use std::collections::HashMap;
use std::io::IsTerminal;
use std::sync::{Mutex, MutexGuard, PoisonError};

use cstor_rs::ids::{Digest, LayerId};
use cstor_rs::pull::{Event, Progress};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::json;

use super::out::tell;

/// How progress is shown.
pub(super) struct Shown {
    style: Style,
    all: MultiProgress,
    bars: Mutex<Bars>,
}

/// One for each layer, by its id, as two layers may have one blob; one for their sum.
#[derive(Default)]
struct Bars {
    layers: HashMap<LayerId, ProgressBar>,
    total: Option<ProgressBar>,
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
        Self { style, all: MultiProgress::new(), bars: Mutex::default() }
    }

    /// Takes the bars away before results are printed.
    pub(super) fn clear(&self) {
        let mut bars = self.lock();
        for bar in bars.layers.drain().map(|(_, bar)| bar).collect::<Vec<_>>().into_iter().chain(bars.total.take()) {
            bar.finish_and_clear();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Bars> {
        self.bars.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, bytes: u64, prefix: &str) -> ProgressBar {
        let bar = ProgressBar::new(bytes);
        let text = "{prefix:12} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}";
        if let Ok(style) = ProgressStyle::with_template(text) {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(prefix.to_owned());
        bar
    }

    fn bars(&self, event: Event<'_>) {
        let mut bars = self.lock();
        match event {
            Event::Fetching { layers, bytes } if layers > 1 => {
                bars.total = Some(self.all.add(self.add(bytes, "total")));
            }
            Event::Started { layer, blob, bytes } => {
                let bar = self.add(bytes, short(blob));
                // The total stays below.
                let bar = match &bars.total {
                    Some(total) => self.all.insert_before(total, bar),
                    None => self.all.add(bar),
                };
                bars.layers.insert(layer.clone(), bar);
            }
            Event::Progress { layer, bytes, .. } => {
                let Some(bar) = bars.layers.get(layer) else { return };
                let more = bytes.saturating_sub(bar.position());
                bar.set_position(bytes);
                bars.total.iter().for_each(|total| total.inc(more));
            }
            Event::Finished { layer, .. } => bars.layers.get(layer).into_iter().for_each(ProgressBar::finish),
            _ => {}
        }
    }
}

fn short(digest: &Digest) -> &str {
    digest.hex().get(..12).unwrap_or_default()
}

fn line(event: Event<'_>) {
    match event {
        Event::Resolved { name, layers } => tell(format_args!("{name}: {layers} layers")),
        Event::Present { blob } => tell(format_args!("layer {} present", short(blob))),
        Event::Started { blob, bytes, .. } => tell(format_args!("layer {} fetching {bytes} bytes", short(blob))),
        Event::Finished { blob, .. } => tell(format_args!("layer {} staged", short(blob))),
        Event::Committing => tell("syncing and committing"),
        _ => {}
    }
}

fn object(event: Event<'_>) {
    tell(match event {
        Event::Resolved { name, layers } => json!({"event": "resolved", "name": name, "layers": layers}),
        Event::OtherPlatform { name, seen, wanted } => {
            json!({"event": "other_platform", "name": name, "platform": seen, "wanted": wanted.to_string()})
        }
        Event::Present { blob } => json!({"event": "present", "blob": blob}),
        Event::Fetching { layers, bytes } => json!({"event": "fetching", "layers": layers, "bytes": bytes}),
        Event::Started { layer, blob, bytes } => json!({"event": "started", "layer": layer, "blob": blob, "bytes": bytes}),
        Event::Finished { layer, blob } => json!({"event": "finished", "layer": layer, "blob": blob}),
        Event::Committing => json!({"event": "committing"}),
        // One line for every few kilobytes would drown the others.
        _ => return,
    });
}

impl Progress for Shown {
    fn event(&self, event: Event<'_>) {
        if let Event::OtherPlatform { name, seen, wanted } = event
            && self.style != Style::Json
        {
            // Even to those who want it quiet: the image will hardly run.
            return self.all.suspend(|| tell(format_args!("warning: {name}: the image is for {seen}, this machine is {wanted}")));
        }
        match self.style {
            Style::Quiet => {}
            Style::Lines => line(event),
            Style::Bars => self.bars(event),
            Style::Json => object(event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_layers_of_one_blob_have_a_bar_each_and_count_twice() {
        let shown = Shown { style: Style::Bars, all: MultiProgress::new(), bars: Mutex::default() };
        let blob = Digest::of(b"blob");
        let below = LayerId::chain(None, &blob);
        let above = LayerId::chain(Some(&below), &blob);
        shown.event(Event::Fetching { layers: 2, bytes: 20 });
        for layer in [&below, &above] {
            shown.event(Event::Started { layer, blob: &blob, bytes: 10 });
        }
        shown.event(Event::Progress { layer: &below, blob: &blob, bytes: 3 });
        shown.event(Event::Progress { layer: &below, blob: &blob, bytes: 10 });
        shown.event(Event::Progress { layer: &above, blob: &blob, bytes: 4 });
        shown.event(Event::Finished { layer: &below, blob: &blob });
        {
            let bars = shown.lock();
            let seen = |layer| bars.layers.get(layer).map(|bar| (bar.position(), bar.is_finished()));
            assert_eq!((seen(&below), seen(&above)), (Some((10, true)), Some((4, false))));
            assert_eq!(bars.total.as_ref().map(|bar| (bar.position(), bar.length())), Some((14, Some(20))));
        }
        shown.clear();
        let bars = shown.lock();
        assert_eq!((bars.layers.len(), bars.total.is_some()), (0, false));
    }
}
