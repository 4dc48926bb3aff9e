//! stub
use crate::{exit::Exit, report::Console};
pub async fn run(_r: crate::cli::DemoArgs, _c: Console) -> Exit {
    Exit::Usage
}
