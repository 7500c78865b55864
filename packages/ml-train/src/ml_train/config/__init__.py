"""The typed configuration of a run: flags win over a TOML file, which wins over a recipe.

| file | what it does |
|---|---|
| sections/ | holds a dataclass per table of a TOML file; a field is a setting |
| sections/rules.py | Range and Literal in the type of a field, and the check of all fields |
| run.py | RunConfig: all sections, and the rules that span sections |
| fields.py | derives flag, key, default and help of a setting from its field |
| flags.py | reads the command line |
| megatron_flags.py | Megatron's flags that are no settings: checked or refused |
| recipes.py | recipes that come with the package |
| load.py | recipe, file and flags to one RunConfig and the origin of each value |
| ineffective.py | finds settings that were given and change nothing |
| facts.py | what ranks compare before the first step |
"""
