//! A command line in one string, split as a shell would: blanks, quotes and backslashes, and nothing else of a shell.

/// Its words.
///
/// # Errors
/// What is not closed.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word) = (Vec::new(), None::<String>);
    let mut rest = text.chars();
    while let Some(one) = rest.next() {
        match one {
            ' ' | '\t' | '\n' => words.extend(word.take()),
            '\'' => quoted(text, '\'', &mut rest, word.get_or_insert_default())?,
            '"' => quoted(text, '"', &mut rest, word.get_or_insert_default())?,
            '\\' => {
                let escaped = rest.next().ok_or_else(|| format!("\"{text}\" ends in a backslash"))?;
                word.get_or_insert_default().push(escaped);
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

/// Takes up to the quote that closes; between double ones a backslash goes before a quote or a backslash.
fn quoted(text: &str, quote: char, rest: &mut std::str::Chars<'_>, word: &mut String) -> Result<(), String> {
    while let Some(one) = rest.next() {
        match one {
            '\\' if quote == '"' => match rest.next() {
                Some(escaped @ ('"' | '\\' | '$' | '`')) => word.push(escaped),
                other => word.extend(['\\'].into_iter().chain(other)),
            },
            closing if closing == quote => return Ok(()),
            other => word.push(other),
        }
    }
    Err(format!("\"{text}\": a {quote} is not closed"))
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_are_those_of_a_shell() {
        for (text, words) in [
            ("", &[][..]),
            ("  a\tb\nc ", &["a", "b", "c"]),
            ("-r 'trtype:TCP traddr:1.2.3.4' -q 4", &["-r", "trtype:TCP traddr:1.2.3.4", "-q", "4"]),
            (r#"a"b c"'d "e'f '' """#, &["ab cd \"ef", "", ""]),
            (r#"a\ b "\"\\\x" '\n'"#, &["a b", "\"\\\\x", "\\n"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        for (text, said) in
            [("a 'b", "a ' is not closed"), ("\"", "a \" is not closed"), ("a\\", "ends in a backslash")]
        {
            assert!(split(text).unwrap_err().contains(said), "{text}");
        }
    }
}
