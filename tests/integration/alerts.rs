//! What reads the metrics: the alerts and the dashboard of the chart.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::page::{Watched, watched};
use crate::support::embedded::Embedded;
use crate::support::env::{TestEnv, run, wait_until, write};
use crate::support::http::get;

fn chart(below: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("helm/archiver").join(below)
}

fn dashboard() -> Value {
    serde_json::from_str(&std::fs::read_to_string(chart("dashboards/archiver.json")).unwrap()).unwrap()
}

/// Every expression of the dashboard with the title of its panel.
fn expressions(dashboard: &Value) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let [title, expression] = [&panel["title"], &target["expr"]].map(|text| text.as_str().unwrap().to_owned());
            found.push((title, expression));
        }
    }
    found
}

/// The metrics that a text names.
fn named(text: &str) -> BTreeSet<&str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    text.split(word).filter(|word| word.starts_with("archiver_")).collect()
}

/// A metric as a scrape tells of it, and the names of its series.
struct Family {
    name: String,
    series: Vec<String>,
}

fn families(metrics: &str) -> Vec<Family> {
    let types = metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let families = types.map(|(name, kind)| {
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        // The older text format has the suffix in the family's name already.
        let base = suffixes.iter().find_map(|suffix| name.strip_suffix(suffix)).unwrap_or(name);
        let series = suffixes.iter().map(|suffix| format!("{base}{suffix}")).collect();
        Family { name: name.to_owned(), series }
    });
    families.collect()
}

/// `promtool`; without, on Debian the test fails, and elsewhere it says that it is skipped.
fn has_promtool() -> bool {
    let there = ["/usr/bin/promtool", "/usr/local/bin/promtool"].iter().any(|path| Path::new(path).exists());
    if !there {
        let text = "promtool is missing; on Debian: apt-get install --no-install-recommends prometheus";
        assert!(!Path::new("/etc/debian_version").exists(), "{text}");
        eprintln!("SKIPPED: {text}");
    }
    there
}

#[test]
fn prometheus_takes_the_alerts_and_their_tests_pass() {
    if !has_promtool() {
        return;
    }
    let env = TestEnv::new();
    let rules = chart("alerts/archiver.rules.yaml");
    let checked = run(env.command("promtool").args(["check", "rules"]).arg(&rules));
    assert!(checked.assert_code(0).stdout.contains(" rules found"), "{checked:?}");
    run(env.command("promtool").args(["test", "rules"]).arg(chart("alerts/archiver.rules.test.yaml"))).assert_code(0);

    // Each alert is tried, one time in vain and one time not, and says what to do.
    let [rules, tests] = ["alerts/archiver.rules.yaml", "alerts/archiver.rules.test.yaml"]
        .map(|file| std::fs::read_to_string(chart(file)).unwrap());
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 7, "{alerts:?}");
    for alert in &alerts {
        assert!(tests.contains(&format!("- alertname: {alert}\n")), "{alert} is not seen to fire");
        assert!(tests.contains(&format!("- {{alertname: {alert}, ")), "{alert} is not seen to keep still");
    }
    for part in ["summary:", "description:", "severity:"] {
        assert_eq!(rules.matches(part).count(), alerts.len(), "{part}");
    }
}

#[test]
fn prometheus_takes_what_the_dashboard_asks() {
    if !has_promtool() {
        return;
    }
    let env = TestEnv::new();
    let dashboard = dashboard();
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (at, (_, expression)) in expressions(&dashboard).iter().enumerate() {
        let asked = expression.replace("$__rate_interval", "5m").replace("$__range", "6h");
        let quoted =
            Value::from(["$job", "$instance", "$source"].iter().fold(asked, |text, name| text.replace(name, ".*")));
        rules.push_str(&format!("  - record: dashboard:{at}\n    expr: {quoted}\n"));
    }
    let file = write(env.path(), "dashboard.rules.yaml", &rules);
    let checked = run(env.command("promtool").args(["check", "rules"]).arg(file));
    assert_eq!(checked.code(), Some(0), "{}\n{rules}", checked.stderr);
}

#[test]
fn alerts_and_dashboard_name_what_the_archiver_exports() {
    let env = TestEnv::new();
    let server = Embedded::start(&env);
    write(&env.local(), "a.csv", "a");
    let Watched { address, running: _running } = watched(&env, &server, []);
    // What comes last: these have no value before.
    let late = ["archiver_last_archived_timestamp_seconds ", "archiver_source_free_bytes{"];
    let mut metrics = String::new();
    wait_until("all metrics have a value", || {
        metrics = get(address, "/metrics").body;
        late.iter().all(|name| metrics.contains(name))
    });
    let families = families(&metrics);
    let exported: BTreeSet<_> = families.iter().flat_map(|family| &family.series).map(String::as_str).collect();

    let rules = std::fs::read_to_string(chart("alerts/archiver.rules.yaml")).unwrap();
    let dashboard = dashboard();
    let shown: Vec<_> = expressions(&dashboard).into_iter().map(|(_, expression)| expression).collect();
    let shown = shown.join("\n");
    for (what, text) in [("the alerts", &rules), ("the dashboard", &shown)] {
        let unknown: Vec<_> = named(text).difference(&exported).copied().collect();
        assert!(unknown.is_empty(), "{what}: {unknown:?} of {exported:?}");
    }
    let shown = named(&shown);
    for family in &families {
        let is_shown = family.series.iter().any(|series| shown.contains(series.as_str()));
        assert!(is_shown || !family.name.starts_with("archiver_"), "the dashboard does not show {}", family.name);
    }
    // People can tell what they look at.
    for panel in dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        assert!(panel["description"].as_str().is_some_and(|text| !text.is_empty()), "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            let legend = target["legendFormat"].as_str().unwrap();
            assert!(panel["type"] == "stat" || !legend.is_empty(), "{}", panel["title"]);
        }
    }
}
