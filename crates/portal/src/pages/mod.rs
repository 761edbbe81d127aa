//! One view struct for each template: what it shows, in words and numbers ready to print.

mod about;
mod curve;
mod frame;
mod rounds;
mod run;
mod runs;
mod summary;
mod workers;

pub use about::About;
pub use curve::{Curve, Points};
pub use frame::{ErrorPage, Frame};
pub use rounds::Rounds;
pub use run::{Live, LivePage, Part, PartPage, Show};
pub use runs::{RunList, RunListPage};
pub use summary::Summary;
pub use workers::Workers;

/// Every template with data to fill it, so that one test renders them all.
#[cfg(test)]
pub trait Sample: askama::Template + Sized {
    /// At least one; more where the template has cases.
    fn samples() -> Vec<Self>;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Renders all samples of a template and looks for what no page may hold.
    fn check<T: Sample>(name: &str) {
        let samples = T::samples();
        assert!(!samples.is_empty(), "{name} has no sample");
        for sample in samples {
            let html = sample
                .render()
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(
                !html.trim().is_empty() || name == "run/curve.html",
                "{name} is empty"
            );
            for forbidden in [
                "<script>",
                "<img src=x",
                "style=",
                "onclick=",
                "NaN",
                "inf ",
            ] {
                assert!(
                    !html.contains(forbidden),
                    "{name} contains {forbidden}:\n{html}"
                );
            }
            for (at, _) in html.match_indices("://") {
                let around = &html[at.saturating_sub(8)..];
                assert!(
                    around.starts_with("http://www.w3.org"),
                    "{name} names a host: {around}"
                );
            }
            for tag in [
                "section", "table", "dl", "ul", "div", "tr", "td", "th", "p", "span",
            ] {
                let opened = html.matches(&format!("<{tag}>")).count()
                    + html.matches(&format!("<{tag} ")).count();
                let closed = html.matches(&format!("</{tag}>")).count();
                assert_eq!(opened, closed, "{name}: <{tag}> opened and closed:\n{html}");
            }
        }
    }

    #[test]
    fn every_template_renders_with_every_sample() {
        check::<ErrorPage>("error.html");
        check::<RunListPage>("runs.html");
        check::<RunList>("run_list.html");
        check::<LivePage>("run.html");
        check::<Live>("run/live.html");
        check::<PartPage>("run_part.html");
        check::<Summary>("run/summary.html");
        check::<Curve>("run/curve.html");
        check::<Workers>("run/workers.html");
        check::<Rounds>("run/rounds.html");
        check::<About>("run/about.html");
    }

    /// A template without a sample is a template that no test renders.
    #[test]
    fn no_template_is_without_a_sample() {
        let source = [
            include_str!("about.rs"),
            include_str!("curve.rs"),
            include_str!("frame.rs"),
            include_str!("rounds.rs"),
            include_str!("run.rs"),
            include_str!("runs.rs"),
            include_str!("summary.rs"),
            include_str!("workers.rs"),
        ]
        .concat();
        // The traits' lines start at the margin or inside one module.
        let templates = source.matches("#[derive(Template)]").count();
        let samples = source.matches("Sample for ").count();
        assert_eq!(templates, samples, "templates and samples");
        let checked = include_str!("mod.rs").matches("check::<").count() - 1;
        assert_eq!(templates, checked, "templates and checks");
    }
}
