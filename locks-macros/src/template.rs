//! Lock names with placeholders: `"app_task_<app_id>"`.

use std::fmt::{self, Display};

use syn::LitStr;

use crate::mistakes::Mistakes;

/// The longest lock name, in bytes, as `LockName` has it.
const LONGEST: usize = 255;

/// A template of one lock name, as written and taken apart.
pub(crate) struct Template {
    pub(crate) literal: LitStr,
    pub(crate) pieces: Vec<Piece>,
}

/// A part of a template.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// Stands in the name as it is.
    Text(String),
    /// Is replaced by the value of an argument or of one of its fields.
    Value(Placeholder),
}

/// What stands between `<` and `>`: the argument, and the way to a field of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Placeholder {
    /// The argument's name, without `r#`.
    pub(crate) argument: String,
    /// Names or tuple indices, outermost first.
    pub(crate) fields: Vec<String>,
}

impl Template {
    /// Takes `literal` apart; what is wrong with it goes to `mistakes`.
    pub(crate) fn parse(literal: LitStr, mistakes: &mut Mistakes) -> Option<Self> {
        let text = literal.value();
        let pieces = match pieces(&text) {
            Ok(pieces) => pieces,
            Err(message) => {
                mistakes.add(literal.span(), message);
                return None;
            }
        };
        if let Some(flaw) = flaw(&pieces) {
            mistakes.add(literal.span(), format_args!("{text:?} {flaw}"));
            return None;
        }
        Some(Self { literal, pieces })
    }

    pub(crate) fn placeholders(&self) -> impl Iterator<Item = &Placeholder> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Value(placeholder) => Some(placeholder),
            Piece::Text(_) => None,
        })
    }

    /// What every name made from it starts with.
    pub(crate) fn literal_start(&self) -> &str {
        match self.pieces.first() {
            Some(Piece::Text(text)) => text,
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

fn pieces(template: &str) -> Result<Vec<Piece>, String> {
    if template.is_empty() {
        return Err("an empty template names no lock: write one such as \
                    \"app_task_<app_id>\""
            .to_owned());
    }
    let mut pieces = Vec::new();
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
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Value(placeholder(&rest[..end], template)?));
        rest = &rest[end + 1..];
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    Ok(pieces)
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
    let fits = is_name(argument) && fields.iter().all(|field| is_field(field));
    if !fits {
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

/// Whether it can be a Rust name; keywords can, as raw ones.
fn is_name(text: &str) -> bool {
    use syn::{ext::IdentExt, parse::Parser};
    text != "_" && proc_macro2::Ident::parse_any.parse_str(text).is_ok()
}

/// Whether it can be a field: a name that can be written, or a tuple index.
fn is_field(text: &str) -> bool {
    const NEVER_FIELDS: [&str; 4] = ["self", "Self", "super", "crate"];
    let is_index = text.bytes().all(|c| c.is_ascii_digit()) && text.parse::<u32>().is_ok();
    is_index || (is_name(text) && !NEVER_FIELDS.contains(&text))
}

/// What no value could mend. The library checks the whole name when it is known.
fn flaw(pieces: &[Piece]) -> Option<&'static str> {
    let texts = || {
        pieces.iter().filter_map(|piece| match piece {
            Piece::Text(text) => Some(text.as_str()),
            Piece::Value(_) => None,
        })
    };
    let starts_blank = matches!(pieces.first(), Some(Piece::Text(text))
        if text.starts_with(char::is_whitespace));
    let ends_blank = matches!(pieces.last(), Some(Piece::Text(text))
        if text.ends_with(char::is_whitespace));
    if texts().any(|text| text.contains(char::is_control)) {
        Some("can be no lock name: it contains a control character")
    } else if texts().any(|text| text.contains('*')) {
        Some(
            "can be no lock name: it contains `*`, \
             which only patterns of a conflict matrix may",
        )
    } else if starts_blank || ends_blank {
        Some("can be no lock name: it starts or ends with white space")
    } else if texts().map(str::len).sum::<usize>() > LONGEST {
        Some("can be no lock name: it is longer than 255 bytes")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Piece {
        Piece::Text(text.to_owned())
    }

    fn value(argument: &str, fields: &[&str]) -> Piece {
        Piece::Value(Placeholder {
            argument: argument.to_owned(),
            fields: fields.iter().map(|&field| field.to_owned()).collect(),
        })
    }

    #[test]
    fn templates_taken_apart() {
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
            assert_eq!(pieces(template), Ok(expected), "{template}");
        }
    }

    #[test]
    fn templates_refused() {
        for (template, reason) in [
            ("", "empty template"),
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
        ] {
            let message = pieces(template).expect_err(template);
            assert!(message.contains(reason), "{template}: {message}");
        }
    }

    #[test]
    fn texts_that_no_value_mends() {
        let long = "x".repeat(256);
        for template in ["app_*", "a\nb", " a", "a ", "<a> ", &long] {
            assert!(flaw(&pieces(template).unwrap()).is_some(), "{template}");
        }
        for template in ["app_<a>", "a b", "a <b> c", &long[..255]] {
            assert!(flaw(&pieces(template).unwrap()).is_none(), "{template}");
        }
    }
}
