//! The join string: where a coordinator is, and the token that admits a machine, in one.
//!
//! `http://127.0.0.1:7070#TOKEN`. The token stands behind `#`, which no browser and no
//! client sends to a server by itself, so that it does not end up in logs.

/// What `opengpu join` is given.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinString {
    /// Address of the coordinator.
    pub server: String,
    /// Enrolment token, unless the machine is enrolled already.
    pub token: Option<String>,
}

impl JoinString {
    /// Takes the two parts apart.
    pub fn parse(text: &str) -> Self {
        let (server, token) = text.trim().split_once('#').unwrap_or((text.trim(), ""));
        Self {
            server: server.trim_end_matches('/').to_owned(),
            token: (!token.is_empty()).then(|| token.to_owned()),
        }
    }
}

impl std::fmt::Display for JoinString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.token {
            Some(token) => write!(f, "{}#{token}", self.server),
            None => write!(f, "{}", self.server),
        }
    }
}

/// Tokens are not for logs.
impl std::fmt::Debug for JoinString {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = if self.token.is_some() { "#…" } else { "" };
        write!(f, "{}{token}", self.server)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_join_string_comes_apart_as_it_was_put_together() {
        let token = Some("abc".to_owned());
        let join = JoinString {
            server: "http://127.0.0.1:7070".to_owned(),
            token,
        };
        assert_eq!(join.to_string(), "http://127.0.0.1:7070#abc");
        assert_eq!(JoinString::parse(" http://127.0.0.1:7070/#abc\n"), join);
        assert_eq!(JoinString::parse("http://h:1").token, None);
        assert!(!format!("{join:?}").contains("abc"));
    }
}
