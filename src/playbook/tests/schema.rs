//! The JSON Schema says the same as the reader, as far as a schema can.

use std::{fs, sync::LazyLock};

use boon::{Compiler, SchemaIndex, Schemas};
use serde_json::Value as Json;

use super::{values::EVERY_KEY, *};

static COMPILED: LazyLock<(Schemas, SchemaIndex)> = LazyLock::new(|| {
    let (mut schemas, mut compiler) = (Schemas::new(), Compiler::new());
    compiler.add_resource("playbook.json", schema()).unwrap();
    let index = compiler.compile("playbook.json", &mut schemas).unwrap();
    (schemas, index)
});

/// Validates YAML, which an independent validator judges.
fn validate(text: &str) -> Result<(), String> {
    let root = yaml::parse(&Source::new(Path::new("p.yaml"), text.to_owned())).unwrap();
    let (schemas, index) = &*COMPILED;
    schemas.validate(&root.to_json(&|_| true), *index).map_err(|error| error.to_string())
}

/// Fails unless the playbook fits the schema.
pub(super) fn assert_fits(text: &str) {
    validate(text).unwrap_or_else(|error| panic!("{error}\n{text}"));
}

#[test]
fn shipped_playbooks_are_good_and_fit_the_schema_their_first_line_names() {
    let files = shipped();
    let names: Vec<_> = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
    let expected = ["all-at-once", "blue-green", "canary", "model-weights", "rolling", "static-site", "systemd-service"];
    assert_eq!(names, expected);
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let playbook = Playbook::load(&file).unwrap();
        assert!(playbook.plan.app.is_some() && playbook.plan.deploy_to.is_some(), "{}", file.display());
        assert_fits(&text);
        let named = text.lines().next().and_then(|line| line.strip_prefix("# yaml-language-server: $schema=")).unwrap();
        let named: Json = serde_json::from_slice(&fs::read(file.with_file_name(named)).unwrap()).unwrap();
        assert_eq!(named, schema(), "write it anew: fleetdrop playbook schema > playbooks/schema.json");
    }
}

#[test]
fn what_fits_no_key_kind_or_bound_does_not_fit_the_schema() {
    assert_fits(EVERY_KEY);
    for bad in [
        "- app: shop",
        "ap: shop",
        "app: 42",
        "app: my shop",
        "deploy_to: srv",
        "keep_releases: 1",
        "linked_dirs: [/etc]",
        "rollout: {waves: 0}",
        "rollout: {waves: []}",
        "rollout: {waves: 101%}",
        "rollout: {max_failures: {canery: 1}}",
        "rollout: {pause: 10}",
        "rollout: {pause: never}",
        "rollout: {order: zones}",
        "hooks: {after_stage: x}",
        "hooks: {after_stage: [{timeout: 1m}]}",
        "health: {http: {}}",
        "health: {http: {url: 'https://h/'}}",
        "health: {http: {url: 'http://h/', status: 99}}",
        "health: {command: []}",
    ] {
        assert!(validate(bad).is_err(), "the schema accepts {bad}");
        assert!(read(bad).is_err(), "the reader accepts {bad}");
    }
}

#[test]
fn every_default_that_the_schema_tells_is_what_a_missing_key_means() {
    let mut told = 0;
    each_default(&schema(), &mut Vec::new(), &mut |path, default| {
        told += 1;
        let mut with = default.clone();
        let mut without = Json::Object(Default::default());
        for key in path.iter().rev() {
            with = serde_json::json!({ *key: with });
        }
        // What must stand beside the key.
        for (place, key, value) in [("/health/http", "url", "http://h/"), ("/health/command", "run", "true")] {
            if format!("/{}", path.join("/")).starts_with(place) {
                with.pointer_mut(place).unwrap()[key] = value.into();
                let (outer, inner) = place[1..].split_once('/').unwrap();
                without = serde_json::json!({ outer: { inner: { key: value } } });
            }
        }
        assert_eq!(plan(&with.to_string()), plan(&without.to_string()), "{}", path.join("."));
    });
    assert!(told >= 20, "only {told} defaults");
}

/// Finds the defaults of keys that are reached through mappings alone.
fn each_default<'a>(schema: &'a Json, path: &mut Vec<&'a str>, found: &mut impl FnMut(&[&str], &Json)) {
    let mappings = schema["anyOf"].as_array().into_iter().flatten().chain([schema]);
    for (key, schema) in mappings.filter_map(|schema| schema["properties"].as_object()).flatten() {
        path.push(key);
        if let Some(default) = schema.get("default") {
            found(path, default);
        }
        each_default(schema, path, found);
        path.pop();
    }
}

#[test]
fn every_key_is_described() {
    fn check(schema: &Json, path: &str) {
        for (key, schema) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{key}");
            let about = schema["description"].as_str().unwrap_or_default();
            assert!(about.ends_with('.') && about.len() > 10, "{path}: {about:?}");
            check(schema, &path);
        }
        schema["anyOf"].as_array().into_iter().flatten().for_each(|schema| check(schema, path));
        if schema["items"].is_object() {
            check(&schema["items"], path);
        }
    }
    check(&schema(), "");
}
