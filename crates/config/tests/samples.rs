//! The sample configurations are files that work, not prose.

use std::path::Path;

use config::{Surroundings, check_networkproxy, check_smartproxy};

/// Issue point 13: what `deploy/` offers loads without an error or a warning.
#[test]
fn every_sample_configuration_loads() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy");
    for folder in [deploy.clone(), deploy.join("container")] {
        for name in ["smartproxy.yaml", "networkproxy.yaml"] {
            let file = folder.join(name);
            let text = std::fs::read_to_string(&file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
            let problems: Vec<String> = if name.starts_with("smart") {
                let report = check_smartproxy(name, &text, &Surroundings::ideal());
                report.errors.iter().chain(&report.warnings).map(ToString::to_string).collect()
            } else {
                let report = check_networkproxy(name, &text, &Surroundings::ideal());
                report.errors.iter().chain(&report.warnings).map(ToString::to_string).collect()
            };
            assert_eq!(problems, Vec::<String>::new(), "{}", file.display());
        }
    }
}
