//! What every page has around it, and the page for errors.

use askama::Template;

use crate::assets;

/// Head, header and footer.
pub struct Frame {
    /// Title of the page, before the product's name.
    pub title: String,
    /// Seconds after which a browser without scripts loads the page again (0: never).
    pub refresh_seconds: u32,
}

impl Frame {
    /// A page that stays as it is.
    pub fn new(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            refresh_seconds: 0,
        }
    }

    /// A page that shows something live.
    pub fn live(title: impl Into<String>) -> Self {
        Self {
            title: title.into(),
            refresh_seconds: 5,
        }
    }

    /// Address of a file by its name in `assets`.
    pub fn url(&self, name: &str) -> String {
        let path = assets::by_name(name).map_or(name, |asset| asset.path.as_str());
        format!("/assets/{path}")
    }

    /// What a browser checks a vendored file against.
    pub fn integrity(&self, name: &str) -> &'static str {
        assets::by_name(name).map_or("", |asset| asset.integrity)
    }

    /// Version of the program.
    pub fn version(&self) -> &'static str {
        env!("CARGO_PKG_VERSION")
    }
}

/// Something went wrong: what, and the way back.
#[derive(Template)]
#[template(path = "error.html")]
pub struct ErrorPage {
    /// Around the page.
    pub frame: Frame,
    /// HTTP status.
    pub status: u16,
    /// A sentence.
    pub message: String,
}

#[cfg(test)]
impl super::Sample for ErrorPage {
    fn samples() -> Vec<Self> {
        vec![Self {
            frame: Frame::new("Not Found"),
            status: 404,
            message: "There is none.".into(),
        }]
    }
}
