//! The pages of one run: the live page, and one page for each of its parts.

use askama::Template;
use opengpu_protocol::wire::RunView;

use super::{About, Curve, Frame, Points, Rounds, Summary, Workers};

/// Rows that the live page shows of a table; the part's own page shows all.
const LIVE_ROUNDS: usize = 12;
const LIVE_WORKERS: usize = 24;

/// Which page of a run, and so which parts its event stream sends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Show {
    /// Everything, tables cut short.
    #[default]
    Live,
    /// Phase, progress, tiles.
    Summary,
    /// All rounds that are kept.
    Rounds,
    /// All workers.
    Workers,
}

impl Show {
    /// Its name in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Summary => "summary",
            Self::Rounds => "rounds",
            Self::Workers => "workers",
        }
    }

    /// The parts of the page, each with the id of its element.
    pub fn parts(self, view: &RunView) -> Result<Vec<Part>, askama::Error> {
        let summary = || Part::new("summary", &Summary::new(view));
        Ok(match self {
            Self::Live => vec![
                summary()?,
                Part::new("workers", &Workers::new(view, LIVE_WORKERS))?,
                Part::new("rounds", &Rounds::new(view, LIVE_ROUNDS))?,
                Part::new("about", &About::new(view))?,
                Part {
                    id: "curve-words",
                    html: curve_words(view),
                },
            ],
            Self::Summary => vec![summary()?],
            Self::Rounds => vec![Part::new("rounds", &Rounds::new(view, usize::MAX))?],
            Self::Workers => vec![Part::new("workers", &Workers::new(view, usize::MAX))?],
        })
    }

    /// The chart's data, where the page has a chart.
    pub fn points(self, view: &RunView) -> Option<Points> {
        (self == Self::Live).then(|| Points::new(view))
    }
}

/// A rendered element that the event stream replaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its id.
    pub id: &'static str,
    /// Its HTML, whole.
    pub html: String,
}

impl Part {
    fn new(id: &'static str, template: &impl Template) -> Result<Self, askama::Error> {
        Ok(Self {
            id,
            html: template.render()?,
        })
    }
}

fn curve_words(view: &RunView) -> String {
    // Only digits, dots and words of ours: nothing in it needs escaping.
    format!(
        "<p id=\"curve-words\">{}</p>",
        super::curve::words(&Points::new(view))
    )
}

/// The live page without what is around it.
#[derive(Template)]
#[template(path = "run/live.html")]
pub struct Live {
    /// The run's number.
    pub run: u64,
    /// The run's name.
    pub name: String,
    /// Phase, progress, tiles.
    pub summary: Summary,
    /// The loss curve.
    pub curve: Curve,
    /// The table of workers.
    pub workers: Workers,
    /// The table of rounds.
    pub rounds: Rounds,
    /// The facts.
    pub about: About,
}

impl Live {
    /// Of this run.
    pub fn new(view: &RunView) -> Self {
        Self {
            run: view.run.0,
            name: view.spec.name.clone(),
            summary: Summary::new(view),
            curve: Curve::new(view),
            workers: Workers::new(view, LIVE_WORKERS),
            rounds: Rounds::new(view, LIVE_ROUNDS),
            about: About::new(view),
        }
    }
}

/// The live page.
#[derive(Template)]
#[template(path = "run.html")]
pub struct LivePage {
    /// Around the page.
    pub frame: Frame,
    /// The page.
    pub live: Live,
}

impl LivePage {
    /// Of this run.
    pub fn new(view: &RunView) -> Self {
        Self {
            frame: Frame::live(view.spec.name.clone()),
            live: Live::new(view),
        }
    }
}

/// The page of one part.
#[derive(Template)]
#[template(path = "run_part.html")]
pub struct PartPage {
    /// Around the page.
    pub frame: Frame,
    /// The run's number.
    pub run: u64,
    /// The run's name.
    pub name: String,
    /// Which part.
    pub show: Show,
    /// The part, rendered.
    pub html: String,
}

impl PartPage {
    /// The page around `html`, the rendered part of this run.
    pub fn new(view: &RunView, show: Show, html: String) -> Self {
        let name = view.spec.name.clone();
        let frame = Frame::live(format!("{}: {}", name, show.name()));
        Self {
            frame,
            run: view.run.0,
            name,
            show,
            html,
        }
    }
}

#[cfg(test)]
mod samples {
    use super::*;
    use crate::pages::Sample;
    use crate::sample::runs;

    impl Sample for Live {
        fn samples() -> Vec<Self> {
            runs().iter().map(Self::new).collect()
        }
    }

    impl Sample for LivePage {
        fn samples() -> Vec<Self> {
            runs().iter().map(Self::new).collect()
        }
    }

    impl Sample for PartPage {
        fn samples() -> Vec<Self> {
            let shows = [Show::Summary, Show::Rounds, Show::Workers];
            let page = |view: &RunView, show: Show| {
                let html = show.parts(view).expect("parts render").remove(0).html;
                Self::new(view, show, html)
            };
            runs()
                .iter()
                .flat_map(|view| shows.map(|show| page(view, show)))
                .collect()
        }
    }
}
