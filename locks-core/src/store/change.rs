//! How one hears that others wrote.

/// How a change becomes known beside looking at the row.
#[allow(dead_code, reason = "which of them are made depends on the engines")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ChangeSource {
    #[default]
    None,
    /// A number, nearly free to ask for, that changes when others write.
    DataVersion,
    /// Notifications, on a connection of their own.
    Notifications,
}

/// What a notification says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) namespace: String,
    /// The version that the row had got.
    pub(crate) version: i64,
}

impl Change {
    /// As it is sent.
    pub(super) fn text(namespace: &str, version: i64) -> String {
        format!("{namespace} {version}")
    }

    /// As it arrives; nothing if it says something else.
    #[allow(dead_code, reason = "not every engine tells")]
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (namespace, version) = text.split_once(' ')?;
        Some(Self {
            namespace: namespace.into(),
            version: version.parse().ok()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_arrives_as_it_was_sent() {
        let change = Change {
            namespace: "platform".into(),
            version: i64::MAX,
        };
        let text = Change::text(&change.namespace, change.version);
        assert_eq!(Change::parse(&text), Some(change));
        for text in ["", "platform", "platform x", "platform 1 2"] {
            assert_eq!(Change::parse(text), None, "{text}");
        }
    }
}
