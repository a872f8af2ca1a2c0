//! scratch
#[test]
fn show() {
    for f in std::env::var("FILES").unwrap().split(',') {
        let text = std::fs::read_to_string(f).unwrap();
        let name = std::path::Path::new(f).file_name().unwrap().to_str().unwrap().to_owned();
        let r = config::check_any(&name, &text, &config::Surroundings::ideal());
        println!("== {f}");
        for e in &r.errors {
            println!("E {e}");
        }
        for e in &r.warnings {
            println!("W {e}");
        }
    }
}
