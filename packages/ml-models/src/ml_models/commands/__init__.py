"""One module per subcommand of `ml-models`, imported when it is called."""
