//! `archiver man`: the manual page, with every command on it.

use std::io::{self, Write};

use clap_mangen::Man;

/// Writes the page of the program, then those of its commands.
pub fn write(out: &mut impl Write) -> io::Result<()> {
    let mut command = super::command().disable_help_subcommand(true);
    command.build();
    pages(&command, out)
}

fn pages(command: &clap::Command, out: &mut impl Write) -> io::Result<()> {
    // The name with those above it: archiver-config-show.
    let name = command.get_display_name().unwrap_or_else(|| command.get_name()).to_owned();
    let source = concat!("archiver ", env!("CARGO_PKG_VERSION"));
    Man::new(command.clone()).title(name.to_uppercase()).source(source).render(out)?;
    command.get_subcommands().filter(|command| !command.is_hide_set()).try_for_each(|command| pages(command, out))
}
