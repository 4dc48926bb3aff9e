//! stub
use crate::{config::Resolved, exit::Exit, report::Console};
pub async fn run(_r: Resolved, _c: Console) -> Exit {
    Exit::Usage
}
