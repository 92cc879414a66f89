//! Templates: lock names with placeholders, such as `"app_task_<app_id>"`.

use std::fmt::{self, Display};

use syn::LitStr;

use crate::mistakes::Mistakes;

/// The maximum length of a lock name in bytes. It is that of `LockName` in `locks-core`.
const MAX_LEN: usize = 255;

/// The template of one lock name.
pub(crate) struct Template {
    pub(crate) literal: LitStr,
    pub(crate) parts: Vec<Part>,
    /// Whether the lock is shared.
    pub(crate) shared: bool,
}

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// A text that is copied into the name.
    Text(String),
    /// A placeholder that is replaced by the value of an argument or of a field.
    Placeholder(Placeholder),
}

/// The argument, and the path to a field of it, between `<` and `>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placeholder {
    /// The name of the argument, without `r#`.
    pub(crate) argument: String,
    /// Names or tuple indices, outermost first.
    pub(crate) fields: Vec<String>,
}

impl Template {
    /// Splits `literal` into its parts. An invalid template is added to `mistakes`.
    pub(crate) fn parse(literal: LitStr, shared: bool, mistakes: &mut Mistakes) -> Option<Self> {
        let text = literal.value();
        let parts = match parts(&text) {
            Ok(parts) => parts,
            Err(message) => {
                mistakes.add(literal.span(), message);
                return None;
            }
        };
        if let Some(rule) = broken_rule(&parts) {
            mistakes.add(
                literal.span(),
                format_args!("{text:?} cannot be a lock name: {rule}"),
            );
            return None;
        }
        Some(Self {
            literal,
            parts,
            shared,
        })
    }

    pub(crate) fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.parts.iter().filter_map(|part| match part {
            Part::Placeholder(placeholder) => Some(placeholder),
            Part::Text(_) => None,
        })
    }

    /// The text before the first placeholder.
    pub(crate) fn literal_prefix(&self) -> &str {
        match self.parts.first() {
            Some(Part::Text(text)) => text,
            _ => "",
        }
    }
}

impl Display for Placeholder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.argument)?;
        self.fields
            .iter()
            .try_for_each(|field| write!(f, ".{field}"))
    }
}

fn parts(template: &str) -> Result<Vec<Part>, String> {
    if template.is_empty() {
        return Err(
            "the template is empty: write a lock name, such as \"app_task_<app_id>\"".to_owned(),
        );
    }
    if let Some(at) = template.find(['{', '}']) {
        return Err(brace(&template[at..], template));
    }
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(start) = rest.find('<') {
        text.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        if let Some(after) = rest.strip_prefix('<') {
            text.push('<');
            rest = after;
            continue;
        }
        let Some(end) = rest.find('>') else {
            return Err(format!(
                "unclosed `<` in {template:?}: write `<argument>`, or `<<` for a literal `<`"
            ));
        };
        if !text.is_empty() {
            parts.push(Part::Text(std::mem::take(&mut text)));
        }
        parts.push(Part::Placeholder(placeholder(&rest[..end], template)?));
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(Part::Text(text));
    }
    Ok(parts)
}

/// The message for a template with a brace. `rest` begins with the first one.
///
/// A brace is a placeholder of `format!` in nearly all cases, and would silently become a part of
/// the name.
fn brace(rest: &str, template: &str) -> String {
    let by_hand = "a name that contains braces can be locked only by `LockManager::acquire` or \
                   `LockManager::wait`";
    let inside = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
    let argument = inside.map(|(inside, _)| inside.split(':').next().unwrap_or(inside).trim());
    match argument {
        Some(argument) if argument.split('.').all(is_name) => format!(
            "`{{{argument}}}` in {template:?} would not be replaced: write `<{argument}>`; {by_hand}"
        ),
        _ => format!(
            "{template:?} contains a brace, which is no placeholder here: \
             write `<argument>`, such as \"app_task_<app_id>\"; {by_hand}"
        ),
    }
}

fn placeholder(inside: &str, template: &str) -> Result<Placeholder, String> {
    if inside.trim().is_empty() {
        return Err(format!(
            "empty `<>` in {template:?}: write the argument's name in it, \
             or `<<` for a literal `<`"
        ));
    }
    let mut parts = inside
        .split('.')
        .map(|part| part.strip_prefix("r#").unwrap_or(part));
    let argument = parts.next().unwrap_or_default();
    let fields: Vec<&str> = parts.collect();
    let is_valid = is_name(argument) && fields.iter().all(|field| is_field(field));
    if !is_valid {
        return Err(format!(
            "`<{inside}>` in {template:?} is neither an argument nor a field of one: \
             write `<argument>`, `<argument.field>` or `<self.field>`"
        ));
    }
    Ok(Placeholder {
        argument: argument.to_owned(),
        fields: fields.into_iter().map(str::to_owned).collect(),
    })
}

/// Whether `text` can be a Rust name. A keyword can, as a raw identifier.
fn is_name(text: &str) -> bool {
    use syn::{ext::IdentExt, parse::Parser};
    text != "_" && proc_macro2::Ident::parse_any.parse_str(text).is_ok()
}

/// Whether `text` can be a field: a name, or an index of a tuple.
fn is_field(text: &str) -> bool {
    const NEVER_FIELDS: [&str; 4] = ["self", "Self", "super", "crate"];
    let is_index = text.bytes().all(|c| c.is_ascii_digit()) && text.parse::<u32>().is_ok();
    is_index || (is_name(text) && !NEVER_FIELDS.contains(&text))
}

/// The rule of lock names that the texts of a template break, if any. The library checks the
/// whole name at run time.
fn broken_rule(parts: &[Part]) -> Option<&'static str> {
    let texts = || {
        parts.iter().filter_map(|part| match part {
            Part::Text(text) => Some(text.as_str()),
            Part::Placeholder(_) => None,
        })
    };
    let starts_blank = matches!(parts.first(), Some(Part::Text(text))
        if text.starts_with(char::is_whitespace));
    let ends_blank = matches!(parts.last(), Some(Part::Text(text))
        if text.ends_with(char::is_whitespace));
    if texts().any(|text| text.contains(char::is_control)) {
        Some("it contains a control character")
    } else if texts().any(|text| text.contains('*')) {
        Some("it contains `*`, which is allowed only in patterns of a conflict matrix")
    } else if starts_blank || ends_blank {
        Some("it starts or ends with white space")
    } else if texts().map(str::len).sum::<usize>() > MAX_LEN {
        Some("it is longer than 255 bytes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn value(argument: &str, fields: &[&str]) -> Part {
        Part::Placeholder(Placeholder {
            argument: argument.to_owned(),
            fields: fields.iter().map(|&field| field.to_owned()).collect(),
        })
    }

    #[test]
    fn templates_are_split_into_parts() {
        for (template, expected) in [
            ("box_update", vec![text("box_update")]),
            ("app_task_<id>", vec![text("app_task_"), value("id", &[])]),
            (
                "<a>_<self.b.0>x",
                vec![
                    value("a", &[]),
                    text("_"),
                    value("self", &["b", "0"]),
                    text("x"),
                ],
            ),
            ("<r#type>", vec![value("type", &[])]),
            ("<a.r#type>", vec![value("a", &["type"])]),
            ("a<<b>", vec![text("a<b>")]),
            ("<<<a>>", vec![text("<"), value("a", &[]), text(">")]),
            ("a > b", vec![text("a > b")]),
        ] {
            assert_eq!(parts(template), Ok(expected), "{template}");
        }
    }

    #[test]
    fn invalid_templates_are_refused() {
        for (template, reason) in [
            ("", "template is empty"),
            ("app_<", "unclosed"),
            ("app_<id", "unclosed"),
            ("app_<>", "empty `<>`"),
            ("app_< >", "empty `<>`"),
            ("app_<id.>", "neither"),
            ("app_<.id>", "neither"),
            ("app_<a b>", "neither"),
            ("app_<a()>", "neither"),
            ("app_<0>", "neither"),
            ("app_<a.self>", "neither"),
            ("app_<a.r#crate>", "neither"),
            ("app_<a.99999999999>", "neither"),
            ("app_<a.0x1>", "neither"),
            ("app_<_>", "neither"),
            ("app_<a<b>>", "neither"),
            ("app_{id}", "write `<id>`"),
            ("app_{ self.id:?}", "write `<self.id>`"),
            ("app_{}", "contains a brace"),
            ("app_{0}", "contains a brace"),
            ("app_{{id}}", "contains a brace"),
            ("app_}", "contains a brace"),
            ("app_<id>{", "contains a brace"),
        ] {
            let message = parts(template).expect_err(template);
            assert!(message.contains(reason), "{template}: {message}");
        }
    }

    #[test]
    fn texts_that_break_the_rules_of_lock_names_are_refused() {
        let long = "x".repeat(256);
        for template in ["app_*", "a\nb", " a", "a ", "<a> ", &long] {
            assert!(
                broken_rule(&parts(template).unwrap()).is_some(),
                "{template}"
            );
        }
        for template in ["app_<a>", "a b", "a <b> c", &long[..255]] {
            assert!(
                broken_rule(&parts(template).unwrap()).is_none(),
                "{template}"
            );
        }
    }
}
