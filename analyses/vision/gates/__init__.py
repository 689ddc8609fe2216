"""Gates: claims about a model of scenes, fixed beforehand, that must hold before anything built on it means much."""
