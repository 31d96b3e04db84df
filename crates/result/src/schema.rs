//! The published grammars of the result and of comparisons, and a checker for them: of JSON Schema as much as they use. A keyword that is
//! not known here is an error, so that nothing in a grammar goes unchecked.

use serde_json::{Map, Value};

/// docs/result-schema.json.
pub const TEXT: &str = include_str!("../../../docs/result-schema.json");
/// docs/comparison-schema.json.
pub const COMPARISON: &str = include_str!("../../../docs/comparison-schema.json");

/// Checks a whole result.
///
/// # Errors
/// Where it differs first: the place as a JSON pointer, and how.
pub fn check(value: &Value) -> Result<(), String> {
    check_as(TEXT, "", value)
}

/// Checks a whole comparison.
///
/// # Errors
/// As [`check`].
pub fn check_comparison(value: &Value) -> Result<(), String> {
    check_as(COMPARISON, "", value)
}

/// Checks a part of a result by its definition in the grammar, a `slice` for example.
///
/// # Errors
/// As [`check`].
pub fn check_part(definition: &str, value: &Value) -> Result<(), String> {
    check_as(TEXT, &format!("/$defs/{definition}"), value)
}

fn check_as(text: &str, pointer: &str, value: &Value) -> Result<(), String> {
    let root: Value = serde_json::from_str(text).map_err(|why| format!("the schema is no JSON: {why}"))?;
    let schema = root.pointer(pointer).ok_or_else(|| format!("the schema has no {pointer}"))?;
    Checker { root: &root }.check(schema, value, "")
}

struct Checker<'a> {
    root: &'a Value,
}

impl Checker<'_> {
    fn check(&self, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
        let schema = schema.as_object().ok_or("a schema is an object")?;
        for (keyword, rule) in schema {
            self.keyword(keyword, rule, schema, value, at).map_err(|why| {
                if why.starts_with('/') { why } else { format!("{}: {why}", if at.is_empty() { "/" } else { at }) }
            })?;
        }
        Ok(())
    }

    fn keyword(
        &self,
        keyword: &str,
        rule: &Value,
        schema: &Map<String, Value>,
        value: &Value,
        at: &str,
    ) -> Result<(), String> {
        let all = || rule.as_array().into_iter().flatten();
        let holds = |good: bool, why: String| if good { Ok(()) } else { Err(why) };
        let length = value.as_array().map(Vec::len);
        match keyword {
            "$schema" | "$defs" | "title" | "description" => Ok(()),
            "$ref" => {
                let target = rule.as_str().and_then(|text| self.root.pointer(text.strip_prefix('#')?));
                self.check(target.ok_or_else(|| format!("the schema has no {rule}"))?, value, at)
            }
            "anyOf" => {
                let failures: Vec<_> = all().map_while(|one| self.check(one, value, at).err()).collect();
                let every = failures.len() == all().count();
                failures.into_iter().next().filter(|_| every).map_or(Ok(()), Err)
            }
            "type" => {
                let good = all().chain(Some(rule)).filter_map(Value::as_str).any(|name| is_of(value, name));
                holds(good, format!("{value} is not of type {rule}"))
            }
            "const" => holds(value == rule, format!("{value} is not {rule}")),
            "enum" => holds(all().any(|one| one == value), format!("{value} is none of {rule}")),
            "minimum" => {
                holds(!(value.as_f64() < rule.as_f64() && value.is_number()), format!("{value} is below {rule}"))
            }
            "maximum" => {
                holds(!(value.as_f64() > rule.as_f64() && value.is_number()), format!("{value} is above {rule}"))
            }
            "minItems" => {
                holds(length.is_none_or(|n| Some(n as u64) >= rule.as_u64()), format!("fewer items than {rule}"))
            }
            "maxItems" => {
                holds(length.is_none_or(|n| Some(n as u64) <= rule.as_u64()), format!("more items than {rule}"))
            }
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                items.into_iter().try_for_each(|(index, item)| self.check(rule, item, &format!("{at}/{index}")))
            }
            "required" => {
                let missing =
                    all().filter_map(Value::as_str).find(|&name| value.is_object() && value.get(name).is_none());
                missing.map_or(Ok(()), |name| Err(format!("{name} is missing")))
            }
            "properties" => {
                let known = rule.as_object().into_iter().flatten();
                let mut there = known.filter_map(|(name, schema)| Some((name, schema, value.get(name)?)));
                there.try_for_each(|(name, schema, value)| self.check(schema, value, &format!("{at}/{name}")))
            }
            "additionalProperties" => {
                let known = |name: &str| schema.get("properties").is_some_and(|known| known.get(name).is_some());
                let mut others = value.as_object().into_iter().flatten().filter(|(name, _)| !known(name));
                others.try_for_each(|(name, value)| match rule {
                    Value::Bool(false) => Err(format!("{name} is not known")),
                    schema => self.check(schema, value, &format!("{at}/{name}")),
                })
            }
            _ => Err(format!("the schema uses {keyword}, which is not checked")),
        }
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Document, Measurement, document::ContextMeasurement};
    use serde_json::json;

    fn whole() -> Value {
        let mut document = Document { schema_version: 2, ..Document::default() };
        document.tool.build = "debug".into();
        let health = crate::telemetry::Health { ocp: Some(Default::default()), ..Default::default() };
        let (before, after) = (Some(health.clone()), Some(health));
        document.drives.push(crate::telemetry::Drive { before, after, ..Default::default() });
        document.results.contexts.push(ContextMeasurement::default());
        document.results.operations.insert("read".into(), Measurement::default());
        document.results.cores.insert(3, Measurement::default());
        document.plan = Some(crate::document::Plan { poll_mode: "poll".into(), ..Default::default() });
        serde_json::to_value(document).unwrap()
    }

    #[test]
    fn a_result_is_as_the_schema_says_and_is_read_back() {
        check(&whole()).unwrap();
        let text = whole().to_string();
        assert_eq!(serde_json::to_value(Document::parse(&text).unwrap()).unwrap(), whole());
    }

    #[test]
    fn what_differs_is_named_with_its_place() {
        for (pointer, value, said) in [
            ("/seed", json!("7"), "/seed: \"7\" is not of type"),
            ("/seed", json!(-7), "/seed: -7 is below 0"),
            ("/plan/read_percent", json!(101), "/plan/read_percent: 101 is above 100"),
            ("/plan", json!(3), "/plan: 3 is not of type"),
            ("/exit/reason", json!("bored"), "/exit/reason: \"bored\" is none of"),
            ("/results/contexts/0/account/failed", json!(1.5), "/results/contexts/0/account/failed: 1.5"),
            ("/results/contexts/0/timed_out", json!([1, 2]), "/results/contexts/0/timed_out: fewer"),
            ("/results/contexts/0/timed_out", json!([1, 2, 3, 4]), "/results/contexts/0/timed_out: more"),
            ("/results/cores/3/errors", json!({"x": "y"}), "/results/cores/3/errors/x: "),
            ("/tool", json!({"name": "doorbell"}), "/tool: version is missing"),
            (
                "/exit",
                json!({"reason": "time", "good": true, "partial": false, "errors": [], "x": 1}),
                "/exit: x is not known",
            ),
        ] {
            let mut document = whole();
            *document.pointer_mut(pointer).unwrap() = value;
            let why = check(&document).unwrap_err();
            assert!(why.starts_with(said), "{why}");
            assert!(Document::parse(&document.to_string()).is_err());
        }
    }

    #[test]
    fn every_definition_is_used_and_every_keyword_checked() {
        for text in [TEXT, COMPARISON] {
            let root: Value = serde_json::from_str(text).unwrap();
            for name in root["$defs"].as_object().unwrap().keys() {
                assert!(text.contains(&format!("\"#/$defs/{name}\"")), "{name}");
                // A keyword that is not known is one of any value.
                let why = check_as(text, &format!("/$defs/{name}"), &json!(null)).unwrap_err();
                assert!(!why.contains("not checked"), "{why}");
            }
        }
        assert!(check_part("nothing", &json!(null)).is_err());
    }

    #[test]
    fn other_versions_and_other_files_are_not_read() {
        for (text, said) in [
            ("{", "no JSON"),
            ("{}", "no schema_version"),
            ("{\"schema_version\": 99}", "schema version 99"),
            ("{\"schema_version\": 2}", "is missing"),
        ] {
            let why = Document::parse(text).unwrap_err();
            assert!(why.contains(said), "{why}");
        }
    }
}
