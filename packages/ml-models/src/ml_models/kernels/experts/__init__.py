"""The gated experts of a rank: sorted tokens through two products and an activation between."""
