"""Multiple choice by letters: which nodes write the letter, what they attend to, and what of that survives."""
