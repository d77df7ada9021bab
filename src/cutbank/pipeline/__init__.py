"""The one room that brings transports, detectors and objects together: spec, scoring, sinking, audit."""
